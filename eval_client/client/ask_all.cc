#include "eval_client/client/ask_all.h"

#include <algorithm>
#include <optional>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "lib/base/check.h"
#include "lib/base/clock.h"

namespace tandem::eval {
namespace {

constexpr absl::Duration kTick = absl::Milliseconds(100);

class Loop {
 public:
  Loop(size_t count, absl::Duration stop_grace, const AskAllHooks& hooks)
      : count_(count), stop_grace_(stop_grace), hooks_(hooks) {}

  absl::Status Run(int threads) {
    running_threads_ = threads;
    std::vector<std::thread> workers;
    for (int i = 0; i < threads; ++i) workers.emplace_back([this] { Work(); });
    Supervise();
    for (std::thread& worker : workers) worker.join();
    absl::MutexLock lock(&mutex_);
    if (!error_.ok()) return error_;
    return answered_ == count_ ? absl::OkStatus()
                               : absl::CancelledError("stopped before all questions were asked");
  }

 private:
  void Work() {
    while (std::optional<size_t> index = TakeNext()) {
      const Answer answer = hooks_.ask(*index);
      absl::MutexLock lock(&mutex_);
      if (stopping_ && absl::IsCancelled(answer.status)) break;
      ++answered_;
      const absl::Status status = hooks_.on_answer(*index, answer);
      if (!status.ok() && error_.ok()) error_ = status;
      if (!status.ok()) stopping_ = true;
    }
    absl::MutexLock lock(&mutex_);
    --running_threads_;
  }

  std::optional<size_t> TakeNext() {
    absl::MutexLock lock(&mutex_);
    if (stopping_ || next_ == count_) return std::nullopt;
    return next_++;
  }

  bool AllDone() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return running_threads_ == 0; }

  // The calling thread's part: ticks, and after a stop the grace period and the cancellation.
  void Supervise() {
    std::optional<absl::Duration> cancel_at;
    bool cancelled = false;
    while (true) {
      bool stopping;
      {
        absl::MutexLock lock(&mutex_);
        if (mutex_.AwaitWithTimeout(absl::Condition(this, &Loop::AllDone), kTick)) return;
        hooks_.on_tick();
        if (hooks_.stop_requested()) stopping_ = true;
        stopping = stopping_;
      }
      const absl::Duration now = base::RealClock().Monotonic();
      if (stopping && !cancel_at) cancel_at = now + stop_grace_;
      if (cancel_at && now >= *cancel_at && !cancelled) {
        hooks_.cancel_running();
        cancelled = true;
      }
    }
  }

  const size_t count_;
  const absl::Duration stop_grace_;
  const AskAllHooks& hooks_;
  absl::Mutex mutex_;
  size_t next_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t answered_ ABSL_GUARDED_BY(mutex_) = 0;
  int running_threads_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace

absl::Status AskAll(size_t count, int concurrency, absl::Duration stop_grace,
                    const AskAllHooks& hooks) {
  TANDEM_CHECK_GE(concurrency, 1);
  const int threads = static_cast<int>(std::min<size_t>(concurrency, count));
  return threads == 0 ? absl::OkStatus() : Loop(count, stop_grace, hooks).Run(threads);
}

}  // namespace tandem::eval
