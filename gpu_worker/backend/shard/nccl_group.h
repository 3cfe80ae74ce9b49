// NcclGroup: a Collective over several GPUs of one machine, one process, a thread per rank. Parts
// travel by NCCL in stream order. NCCL itself waits for ever, so a watchdog looks at what was
// enqueued: when a gather is not through in time, or a device or a link reports an error, it aborts
// all communicators, which ends the kernels that wait, and every rank gets one error.
//
// For who enqueues: all gathers of a rank go to one stream (a communicator on two streams
// deadlocks), in the same order on all ranks, captured graphs included. Device memory is not
// allocated or freed meanwhile: that waits for devices that wait for each other.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "gpu_worker/backend/shard/collective.h"
#include "gpu_worker/backend/shard/in_process_group.h"
#include "gpu_worker/backend/shard/nccl_library.h"

namespace tandem::gpu_worker {

class NcclGroup : public std::enable_shared_from_this<NcclGroup> {
 public:
  // wait_max: from enqueuing a gather until it is through on that rank. Errors are those of Nccl(),
  // or INTERNAL with what NCCL says.
  static absl::StatusOr<std::shared_ptr<NcclGroup>> Make(int ranks, absl::Duration wait_max);
  ~NcclGroup();

  // The rank's own end, on the rank's thread and for its current device; keeps the group alive.
  // Returns when all ranks have joined and gathered once, or DEADLINE_EXCEEDED after wait_max.
  absl::StatusOr<std::unique_ptr<Collective>> Join(int rank);

  int ranks() const { return host_->ranks(); }
  absl::Status status() const { return host_->status(); }

 private:
  class Member;

  NcclGroup(const NcclLibrary& nccl, const ncclUniqueId& id, int ranks, absl::Duration wait_max);
  void Add(Member* member);
  void Remove(Member* member);
  void WatchLoop();
  // "gathers begun by rank: 3, 2"
  std::string Progress() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const NcclLibrary& nccl_;
  const ncclUniqueId id_;
  const absl::Duration wait_max_;
  // Host-side meetings, and the one status of all ranks.
  const std::shared_ptr<InProcessGroup> host_;
  absl::Mutex mutex_;
  std::vector<Member*> members_ ABSL_GUARDED_BY(mutex_);  // by rank; null before and after
  std::atomic<bool> stopping_{false};
  std::thread watchdog_;
};

}  // namespace tandem::gpu_worker
