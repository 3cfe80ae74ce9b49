// InProcessGroup: a Collective over the threads of one process, through host memory. The host
// backend's ranks use it, and it proves the sharding where there is no second GPU.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gpu_worker/backend/shard/collective.h"

namespace tandem::gpu_worker {

class InProcessGroup : public std::enable_shared_from_this<InProcessGroup> {
 public:
  // wait_max: how long one rank waits for the others in one call. An error is DEADLINE_EXCEEDED and
  // names those that did not come.
  static std::shared_ptr<InProcessGroup> Make(int ranks, absl::Duration wait_max);

  // The rank's own end; keeps the group alive. For one thread at a time.
  std::unique_ptr<Collective> Rank(int rank);

  int ranks() const { return static_cast<int>(places_.size()); }
  void Abort(const absl::Status& why);
  absl::Status status() const;

 private:
  class Member;
  // What a rank brings to a meeting.
  struct Place {
    const void* part = nullptr;
    size_t bytes = 0;
    bool here = false;
  };

  InProcessGroup(int ranks, absl::Duration wait_max) : wait_max_(wait_max), places_(ranks) {}
  absl::Status AllGather(int rank, const void* part, void* whole, size_t bytes);
  // part: what the rank brings; null: what it brought last stays in its place.
  absl::Status Meet(int rank, const void* part, size_t bytes);
  std::string Missing() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void FailLocked(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const absl::Duration wait_max_;
  mutable absl::Mutex mutex_;
  absl::CondVar changed_;
  // Written by their ranks before a meeting, read by all until the next one.
  std::vector<Place> places_ ABSL_GUARDED_BY(mutex_);
  int arrived_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t meetings_ ABSL_GUARDED_BY(mutex_) = 0;  // that have taken place
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tandem::gpu_worker
