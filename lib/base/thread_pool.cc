#include "lib/base/thread_pool.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <bit>
#include <climits>
#include <mutex>
#include <thread>
#include <utility>

#include "lib/base/check.h"
#include "lib/base/clock.h"

namespace tandem::base {
namespace {

// Waking a sleeping thread takes 60 to 120 us here (a futex round trip between two processors of a
// virtual machine). A thread waits awake for as long as one such wake-up and then sleeps: so no
// more can be lost by spinning than by sleeping at once, and an idle pool is silent after 0.1 ms.
constexpr auto kSpinMax = absl::Microseconds(100);
// The loops of one layer follow each other within a few microseconds. Who waits longer offers the
// processor to others between looks (sched_yield, 0.3 us when nobody wants it), so that spinning
// threads do not starve the one they wait for where there are more threads than processors.
constexpr auto kSpinAlone = absl::Microseconds(20);
// Clock reads cost some 30 ns, a pause 10 to 40 ns: look at the clock every few pauses only.
constexpr int kPausesPerClockRead = 16;

// Pieces a thread's share is cut into. What a thread has begun cannot be taken from it, so one that
// is interrupted holds up the others by an eighth of its share at most; taking a piece costs some
// 10 ns.
constexpr int64_t kUnitsPerThread = 8;

// Threads a thread wakes: each of them wakes as many more, so that 64 are awake after six wake-ups
// one after the other and the caller pays for two of them.
constexpr int kWakesPerThread = 2;

// Two cache lines: processors fetch them in pairs.
constexpr size_t kApart = 128;

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
  for (int i = 0; i < kPausesPerClockRead; ++i) {  // the usual case never reads the clock
    if (done()) return true;
    Pause();
  }
  const absl::Duration start = RealClock().Monotonic();
  for (;;) {
    for (int i = 0; i < kPausesPerClockRead; ++i) {
      if (done()) return true;
      Pause();
    }
    const absl::Duration waited = RealClock().Monotonic() - start;
    if (waited >= kSpinMax) return done();
    if (waited >= kSpinAlone) sched_yield();
  }
}

// A futex is the 32-bit word at its address: here a word of its own, or the lower half of a counter
// (little endian, as all the machines this runs on are).
template <typename T>
uint32_t* FutexWord(std::atomic<T>* word) {
  static_assert(std::endian::native == std::endian::little || sizeof(T) == sizeof(uint32_t));
  static_assert(sizeof(*word) == sizeof(T) && std::atomic<T>::is_always_lock_free);
  return reinterpret_cast<uint32_t*>(word);
}

// Sleeps while the word is `value`; may return early.
template <typename T>
void FutexWait(std::atomic<T>* word, T value) {
  syscall(SYS_futex, FutexWord(word), FUTEX_WAIT_PRIVATE, static_cast<uint32_t>(value), nullptr,
          nullptr, 0);
}

template <typename T>
void FutexWake(std::atomic<T>* word, int threads) {
  syscall(SYS_futex, FutexWord(word), FUTEX_WAKE_PRIVATE, threads, nullptr, nullptr, 0);
}

bool BindThisThread(const std::vector<int>& cpus) {
  if (cpus.empty()) return true;
  cpu_set_t set;
  CPU_ZERO(&set);
  for (int cpu : cpus) {
    if (cpu < 0 || cpu >= CPU_SETSIZE) return false;
    CPU_SET(cpu, &set);
  }
  return pthread_setaffinity_np(pthread_self(), sizeof(set), &set) == 0;
}

// A contiguous run of units [begin, end) in one word, so that owner and thieves can cut it.
struct UnitRange {
  uint32_t begin = 0, end = 0;

  static UnitRange Of(uint64_t word) {
    return {static_cast<uint32_t>(word >> 32), static_cast<uint32_t>(word)};
  }
  uint64_t word() const { return uint64_t{begin} << 32 | end; }
};

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// True inside a loop body: a nested loop runs on its own thread, since the pool is busy with the
// outer one.
thread_local bool inside_loop = false;
thread_local int this_node = 0;

}  // namespace

struct ThreadPool::Impl {
  // What one thread shows to the others.
  struct Slot {
    alignas(kApart) std::atomic<uint64_t> range{0};   // UnitRange not yet begun
    alignas(kApart) std::atomic<uint64_t> inside{0};  // loop the thread is inside of; 0: none
    alignas(kApart) ThreadPlace place;
    std::vector<int> victims;  // whom to steal from, nearest first
  };
  // Items that are shared out among the threads [first_thread, first_thread + threads).
  struct Segment {
    int64_t begin = 0, end = 0;
    int64_t unit = 1;         // items
    int64_t units_begin = 0;  // number of its first unit; units are counted through all segments
    int first_thread = 0, threads = 0;

    int64_t units() const { return CeilDiv(end - begin, unit); }
  };

  explicit Impl(std::vector<ThreadPlace> places);

  void WorkerMain(int thread);
  void RunLoop(const std::vector<Segment>& loop, int64_t grain, Body loop_body);
  void Work(int thread);
  bool TakeOwn(int thread, uint32_t* unit);
  bool Steal(int thread);
  void RunUnit(uint32_t unit);
  void WaitUntilAlone(uint64_t loop);
  void WakeSome() {
    if (parked.load(std::memory_order_seq_cst) > 0) FutexWake(&newest, kWakesPerThread);
  }

  std::vector<Slot> slots;
  std::vector<Segment> whole;     // one segment, all threads
  std::vector<Segment> per_node;  // one segment a node
  std::vector<std::thread> threads;
  std::atomic<int> not_bound{0};
  std::mutex loop_mutex;  // held by the caller for the length of one loop; callers only wait for it
                          // when there are several

  // The loop. Written by the caller while no thread is inside.
  const Body* body = nullptr;
  std::vector<Segment> segments;

  // A thread says that it is inside loop g and then looks whether g is over; the caller says that g
  // is over and then looks who is inside. Both in sequentially consistent order, so at least one of
  // them sees the other: a late thread turns back, or the caller waits for it. Likewise a thread
  // counts itself as parked and then looks for a new loop, and the caller opens a loop and then
  // looks who is parked.
  alignas(kApart) std::atomic<uint64_t> newest{0};  // loop that was opened last; parked threads
                                                    // wait on its lower half
  std::atomic<uint64_t> over{0};                    // loop that was closed last
  std::atomic<bool> stopping{false};
  alignas(kApart) std::atomic<int> parked{0};
  alignas(kApart) std::atomic<uint32_t> caller_parked{0};  // 1 while the caller sleeps
};

ThreadPool::Impl::Impl(std::vector<ThreadPlace> places) : slots(places.size()) {
  TANDEM_CHECK_GE(places.size(), size_t{1});
  const int count = static_cast<int>(places.size());
  for (int t = 0; t < count; ++t) {
    const int node = places[t].node;
    if (per_node.empty() || node != static_cast<int>(per_node.size()) - 1) {
      TANDEM_CHECK_EQ(node, static_cast<int>(per_node.size()));
      per_node.push_back({.first_thread = t});
    }
    ++per_node.back().threads;
    slots[t].place = std::move(places[t]);
  }
  whole.push_back({.first_thread = 0, .threads = count});
  for (int t = 0; t < count; ++t) {
    for (int step = 1; step < count; ++step) slots[t].victims.push_back((t + step) % count);
    std::stable_partition(slots[t].victims.begin(), slots[t].victims.end(), [&](int victim) {
      return slots[victim].place.node == slots[t].place.node;
    });
  }
  for (int t = 1; t < count; ++t) threads.emplace_back([this, t] { WorkerMain(t); });
}

void ThreadPool::Impl::WorkerMain(int thread) {
  Slot& slot = slots[thread];
  if (!BindThisThread(slot.place.cpus)) not_bound.fetch_add(1);
  uint64_t seen = 0;
  const auto has_news = [&] { return newest.load(std::memory_order_acquire) != seen; };
  for (;;) {
    if (!SpinUntil(has_news)) {
      parked.fetch_add(1, std::memory_order_seq_cst);
      while (newest.load(std::memory_order_seq_cst) == seen) FutexWait(&newest, seen);
      parked.fetch_sub(1, std::memory_order_seq_cst);
      WakeSome();
    }
    if (stopping.load(std::memory_order_acquire)) return;
    seen = newest.load(std::memory_order_acquire);
    slot.inside.store(seen, std::memory_order_seq_cst);
    if (over.load(std::memory_order_seq_cst) < seen) Work(thread);
    slot.inside.store(0, std::memory_order_seq_cst);
    if (caller_parked.load(std::memory_order_seq_cst) == 1) {
      caller_parked.store(0, std::memory_order_seq_cst);
      FutexWake(&caller_parked, 1);
    }
  }
}

void ThreadPool::Impl::RunLoop(const std::vector<Segment>& loop, int64_t grain, Body loop_body) {
  body = &loop_body;
  segments = loop;
  int64_t units = 0;
  for (Segment& segment : segments) {
    const int64_t fair = CeilDiv(segment.end - segment.begin, segment.threads * kUnitsPerThread);
    segment.unit = std::max<int64_t>(1, CeilDiv(fair, grain)) * grain;
    segment.units_begin = units;
    for (int t = 0; t < segment.threads; ++t) {
      const auto share = [&](int part) {
        return static_cast<uint32_t>(units + segment.units() * part / segment.threads);
      };
      slots[segment.first_thread + t].range.store(UnitRange{share(t), share(t + 1)}.word(),
                                                  std::memory_order_relaxed);
    }
    units += segment.units();
  }
  const uint64_t number = newest.load(std::memory_order_relaxed) + 1;
  newest.store(number, std::memory_order_seq_cst);
  WakeSome();
  Work(0);
  over.store(number, std::memory_order_seq_cst);
  WaitUntilAlone(number);
}

void ThreadPool::Impl::WaitUntilAlone(uint64_t loop) {
  const auto alone = [&] {
    return std::all_of(slots.begin() + 1, slots.end(), [&](const Slot& slot) {
      return slot.inside.load(std::memory_order_seq_cst) != loop;
    });
  };
  if (SpinUntil(alone)) return;
  for (;;) {
    caller_parked.store(1, std::memory_order_seq_cst);
    if (alone()) break;
    FutexWait(&caller_parked, uint32_t{1});
  }
  caller_parked.store(0, std::memory_order_seq_cst);
}

void ThreadPool::Impl::Work(int thread) {
  inside_loop = true;
  this_node = slots[thread].place.node;
  do {
    uint32_t unit = 0;
    while (TakeOwn(thread, &unit)) RunUnit(unit);
  } while (Steal(thread));
  this_node = 0;
  inside_loop = false;
}

bool ThreadPool::Impl::TakeOwn(int thread, uint32_t* unit) {
  std::atomic<uint64_t>& own = slots[thread].range;
  uint64_t word = own.load(std::memory_order_relaxed);
  for (;;) {
    const UnitRange range = UnitRange::Of(word);
    if (range.begin >= range.end) return false;
    const UnitRange rest{range.begin + 1, range.end};
    if (own.compare_exchange_weak(word, rest.word(), std::memory_order_relaxed)) {
      *unit = range.begin;
      return true;
    }
  }
}

// Moves the rear half of somebody's units to the thread, whose own are done. Units are begun once,
// so a range never takes a value it had before in the same loop, and comparing is enough.
bool ThreadPool::Impl::Steal(int thread) {
  for (int victim : slots[thread].victims) {
    std::atomic<uint64_t>& theirs = slots[victim].range;
    uint64_t word = theirs.load(std::memory_order_relaxed);
    for (;;) {
      const UnitRange range = UnitRange::Of(word);
      if (range.begin >= range.end) break;
      const uint32_t cut = range.end - (range.end - range.begin + 1) / 2;
      if (!theirs.compare_exchange_weak(word, UnitRange{range.begin, cut}.word(),
                                        std::memory_order_relaxed)) {
        continue;
      }
      slots[thread].range.store(UnitRange{cut, range.end}.word(), std::memory_order_relaxed);
      return true;
    }
  }
  return false;
}

void ThreadPool::Impl::RunUnit(uint32_t unit) {
  size_t at = segments.size() - 1;
  while (segments[at].units_begin > unit) --at;  // empty segments begin where the next one does
  const Segment& segment = segments[at];
  const int64_t begin = segment.begin + (unit - segment.units_begin) * segment.unit;
  (*body)(begin, std::min(begin + segment.unit, segment.end));
}

ThreadPool::ThreadPool(int threads)
    : ThreadPool(std::vector<ThreadPlace>(static_cast<size_t>(std::max(threads, 0)))) {}

ThreadPool::ThreadPool(std::vector<ThreadPlace> places)
    : impl_(std::make_unique<Impl>(std::move(places))) {}

ThreadPool::~ThreadPool() {
  impl_->stopping.store(true, std::memory_order_release);
  impl_->newest.fetch_add(1, std::memory_order_seq_cst);
  FutexWake(&impl_->newest, INT_MAX);
  for (std::thread& thread : impl_->threads) thread.join();
}

int ThreadPool::threads() const { return static_cast<int>(impl_->slots.size()); }
int ThreadPool::nodes() const { return static_cast<int>(impl_->per_node.size()); }
int ThreadPool::threads_not_bound() const { return impl_->not_bound.load(); }
int ThreadPool::ThisNode() { return this_node; }
bool ThreadPool::BindCaller() const { return BindThisThread(impl_->slots.front().place.cpus); }

void ThreadPool::ParallelFor(int64_t count, int64_t grain, Body body) {
  TANDEM_CHECK_GE(grain, 1);
  if (count <= 0) return;
  if (inside_loop || threads() == 1 || count <= grain) {
    body(0, count);
    return;
  }
  const std::lock_guard<std::mutex> lock(impl_->loop_mutex);
  impl_->whole.front().end = count;
  impl_->RunLoop(impl_->whole, grain, body);
}

void ThreadPool::ParallelForNodes(std::span<const int64_t> bounds, int64_t grain, Body body) {
  TANDEM_CHECK_GE(grain, 1);
  TANDEM_CHECK_EQ(bounds.size(), static_cast<size_t>(nodes()) + 1);
  for (int n = 0; n < nodes(); ++n) TANDEM_CHECK_LE(bounds[n], bounds[n + 1]);
  if (bounds.front() == bounds.back()) return;
  if (inside_loop || threads() == 1) {
    for (int n = 0; n < nodes(); ++n) {
      if (bounds[n] < bounds[n + 1]) body(bounds[n], bounds[n + 1]);
    }
    return;
  }
  const std::lock_guard<std::mutex> lock(impl_->loop_mutex);
  for (int n = 0; n < nodes(); ++n) {
    impl_->per_node[n].begin = bounds[n];
    impl_->per_node[n].end = bounds[n + 1];
  }
  impl_->RunLoop(impl_->per_node, grain, body);
}

}  // namespace tandem::base
