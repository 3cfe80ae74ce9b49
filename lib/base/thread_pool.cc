#include "lib/base/thread_pool.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "lib/base/check.h"
#include "lib/base/clock.h"

namespace tandem::base {
namespace {

// A loop of one expert layer takes tens of microseconds and waking a sleeping thread about a
// hundred, so a thread waits awake for the length of one such wake-up and then sleeps: no more can
// be lost by spinning than by sleeping at once.
constexpr auto kSpinMax = absl::Microseconds(100);
// Clock reads cost some 30 ns, a pause 10 to 40 ns: look at the clock every few pauses only.
constexpr int kPausesPerClockRead = 16;

// Chunks a thread gets on average; more than one, so that a thread that was interrupted does not
// hold up the others.
constexpr int64_t kChunksPerThread = 4;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#else
  std::this_thread::yield();
#endif
}

// Spins until `done()` or kSpinMax is over; true when done.
template <typename Done>
bool SpinUntil(const Done& done) {
  const absl::Duration end = RealClock().Monotonic() + kSpinMax;
  do {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      if (done()) return true;
      Pause();
    }
  } while (RealClock().Monotonic() < end);
  return done();
}

// True inside a loop body: a nested loop runs on its own thread, since the pool is busy with the
// outer one.
thread_local bool inside_loop = false;

}  // namespace

struct ThreadPool::Impl {
  using Body = std::function<void(int64_t, int64_t)>;

  std::vector<std::thread> threads;
  std::mutex loop_mutex;  // held for the length of one loop

  // The current loop. Written under `mutex` while no thread is inside.
  const Body* body = nullptr;
  int64_t count = 0;
  int64_t chunk = 0;
  std::atomic<int64_t> next{0};  // first index nobody has taken

  std::mutex mutex;
  std::condition_variable work_cv;  // a loop was opened, or the pool stops
  std::condition_variable idle_cv;  // `active` fell to zero
  bool open = false;                // threads may still enter the current loop
  bool stopping = false;
  std::atomic<uint64_t> generation{0};  // of the newest loop; changes under `mutex`
  std::atomic<int> active{0};  // threads inside the loop but the caller; changes under `mutex`

  void RunChunks() {
    inside_loop = true;
    for (;;) {
      const int64_t begin = next.fetch_add(chunk, std::memory_order_relaxed);
      if (begin >= count) break;
      (*body)(begin, std::min(begin + chunk, count));
    }
    inside_loop = false;
  }

  void WorkerMain() {
    uint64_t seen = 0;
    for (;;) {
      SpinUntil([&] { return generation.load(std::memory_order_acquire) != seen; });
      std::unique_lock<std::mutex> lock(mutex);
      work_cv.wait(lock, [&] { return stopping || generation.load() != seen; });
      if (stopping) return;
      seen = generation.load();
      if (!open) continue;  // woke too late: the others have finished it
      active.fetch_add(1);
      lock.unlock();
      RunChunks();
      lock.lock();
      if (active.fetch_sub(1) == 1) idle_cv.notify_one();
    }
  }

  void Open(int64_t loop_count, int64_t loop_chunk, const Body& loop_body) {
    {
      std::lock_guard<std::mutex> lock(mutex);
      body = &loop_body;
      count = loop_count;
      chunk = loop_chunk;
      next.store(0, std::memory_order_relaxed);
      open = true;
      generation.fetch_add(1, std::memory_order_release);
    }
    work_cv.notify_all();
  }

  // Lets nobody else in and waits for those inside.
  void CloseAndWait() {
    {
      std::lock_guard<std::mutex> lock(mutex);
      open = false;
    }
    if (SpinUntil([&] { return active.load(std::memory_order_acquire) == 0; })) return;
    std::unique_lock<std::mutex> lock(mutex);
    idle_cv.wait(lock, [&] { return active.load() == 0; });
  }
};

ThreadPool::ThreadPool(int threads) : impl_(std::make_unique<Impl>()) {
  TANDEM_CHECK_GE(threads, 1);
  for (int i = 1; i < threads; ++i) {
    impl_->threads.emplace_back([impl = impl_.get()] { impl->WorkerMain(); });
  }
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(impl_->mutex);
    impl_->stopping = true;
    impl_->generation.fetch_add(1);
  }
  impl_->work_cv.notify_all();
  for (std::thread& thread : impl_->threads) thread.join();
}

int ThreadPool::threads() const { return static_cast<int>(impl_->threads.size()) + 1; }

void ThreadPool::ParallelFor(int64_t count, int64_t grain,
                             const std::function<void(int64_t, int64_t)>& body) {
  TANDEM_CHECK_GE(grain, 1);
  if (count <= 0) return;
  if (inside_loop || threads() == 1 || count <= grain) {
    body(0, count);
    return;
  }
  const int64_t fair = count / (threads() * kChunksPerThread);
  const int64_t chunk = std::max<int64_t>(1, (fair + grain - 1) / grain) * grain;
  std::lock_guard<std::mutex> loop_lock(impl_->loop_mutex);
  impl_->Open(count, chunk, body);
  impl_->RunChunks();
  impl_->CloseAndWait();
}

}  // namespace tandem::base
