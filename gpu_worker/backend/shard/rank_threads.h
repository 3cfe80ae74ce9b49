// RankThreads: one thread per rank, each with its own queue of work, so that a device has one
// thread that speaks to it and ranks meet each other inside their work. Whoever posts goes on at
// once; Join waits for all of it. A rank that is stuck is an error that names it, never a hang.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace tandem::gpu_worker {

class RankThreads {
 public:
  using Work = std::function<absl::Status(int rank)>;

  // work_max: how long one piece of work may take. on_failure: called once, on the thread that
  // noticed, with the first error; must make ranks return that wait for each other.
  RankThreads(int ranks, absl::Duration work_max,
              std::function<void(const absl::Status&)> on_failure);
  // Waits for the work under way, drops the rest. CHECKs that ranks end within work_max.
  ~RankThreads();
  RankThreads(const RankThreads&) = delete;
  RankThreads& operator=(const RankThreads&) = delete;

  int ranks() const { return static_cast<int>(ranks_.size()); }
  // From now on; nothing may be queued or under way.
  void SetWorkMax(absl::Duration work_max);
  // Queues `work` for every rank; waits while a queue is full. Dropped after a failure.
  void Post(const Work& work);
  // Until everything posted is done: the first error, which is final. DEADLINE_EXCEEDED names ranks
  // whose work took longer than work_max.
  absl::Status Join();
  absl::Status status() const;

 private:
  struct Rank {
    std::deque<Work> queue;
    bool busy = false;
    bool ended = false;
    absl::Time begun;      // the work under way
    absl::CondVar posted;  // or stopping
    std::thread thread;
  };

  void Loop(int rank);
  void Fail(const absl::Status& why) ABSL_LOCKS_EXCLUDED(mutex_);
  // Waits for `changed_`, at most until the rank that works longest has had its time; the error
  // then.
  absl::Status WaitForChange() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool Idle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool AnyFull() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::function<void(const absl::Status&)> on_failure_;
  mutable absl::Mutex mutex_;
  absl::Duration work_max_ ABSL_GUARDED_BY(mutex_);
  absl::CondVar changed_;                     // a rank has done some work, or something failed
  std::vector<std::unique_ptr<Rank>> ranks_;  // the vector is const; its content is guarded
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
  bool told_ ABSL_GUARDED_BY(mutex_) = false;  // on_failure_ has returned
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tandem::gpu_worker
