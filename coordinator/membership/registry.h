// Registry: who is in the cluster and which table is in force. Workers register, send heartbeats
// and leave; the registry deals experts, keeps leases and says whether the cluster can answer. All
// rules about workers are here, all about experts in placement.h.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "coordinator/membership/placement.h"
#include "lib/base/clock.h"
#include "proto/membership.pb.h"

namespace tandem::coordinator {

struct RegistryOptions {
  uint32_t cpu_workers_expected = 1;  // the first table waits for so many
  uint32_t replicas = 1;
  // Three in a lease: one that is late or lost is no death yet. GPU workers are asked for twice as
  // many, because they learn from the answers where experts have gone.
  absl::Duration heartbeat_interval = absl::Seconds(1);
  absl::Duration lease = absl::Seconds(3);
  // How long the experts of a lost worker wait for a joining one before they are dealt to the
  // others.
  absl::Duration replace_after = absl::InfiniteDuration();
  // Called when a worker came, went, or changed its readiness; under the registry's lock, so it
  // must not call back. May be empty.
  std::function<void()> on_change;
  // Of the cluster's recipe; workers with another one, or none, are refused. Empty: without one.
  std::string recipe_digest = {};
};

struct ReadyWorker {
  std::string worker_id;
  std::string address;
};

struct ClusterSummary {
  std::string model_digest;  // empty before the first worker
  uint32_t cpu_workers_ready = 0;
  uint32_t gpu_workers_ready = 0;
  uint32_t cpu_workers = 0;
  uint32_t gpu_workers = 0;
  uint64_t experts = 0;
  uint64_t experts_uncovered = 0;
  uint64_t experts_below_replicas = 0;  // on fewer workers than asked for
  uint64_t epoch = 0;
};

// Thread-safe.
class Registry {
 public:
  // `clock` must outlive this. Epochs start at the clock's milliseconds, so that those of a
  // restarted coordinator are higher.
  Registry(const RegistryOptions& options, const base::Clock* clock);

  // INVALID_ARGUMENT for a registration that makes no sense, FAILED_PRECONDITION when the worker's
  // model is not the cluster's (both named), RESOURCE_EXHAUSTED beyond 4096 workers. The same
  // worker may register again.
  absl::StatusOr<membership::v1::RegisterResponse> Register(
      const membership::v1::RegisterRequest& request);
  membership::v1::HeartbeatResponse Heartbeat(const membership::v1::HeartbeatRequest& request);
  void Deregister(const std::string& worker_id);
  // Ends leases and waits that are over; call a few times in a lease.
  void Tick();

  // Null before the first table.
  std::shared_ptr<const membership::v1::Placement> placement() const;
  // OK when every expert is on a ready worker and a GPU worker is ready; otherwise UNAVAILABLE with
  // the reason.
  absl::Status Readiness() const;
  // The ready GPU workers, longest registered first.
  std::vector<ReadyWorker> ReadyGpuWorkers() const;
  ClusterSummary Summary() const;

 private:
  struct Member {
    membership::v1::RegisterRequest registration;
    membership::v1::WorkerState state = membership::v1::WORKER_STATE_LOADING;
    uint64_t epoch_loaded = 0;
    absl::Duration last_seen;
    uint64_t order = 0;  // of registration
    // The epoch of the table that last changed what this worker holds; it is ready once it has
    // loaded that one.
    uint64_t epoch_needed = 0;

    bool is_cpu() const { return registration.kind() == membership::v1::WORKER_KIND_CPU; }
    bool is_ready() const {
      return state == membership::v1::WORKER_STATE_READY && epoch_loaded >= epoch_needed;
    }
  };

  absl::Status CheckModel(const membership::v1::RegisterRequest& request) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void ReplaceAt(const membership::v1::RegisterRequest& request)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Forget(const std::string& worker_id, const char* why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void SpreadOverdueSeats(absl::Duration now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Makes the first table when it can be made, and seats those who have none.
  void SeatWorkers() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DealFirstTable() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::vector<Candidate> CpuCandidates() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsSeated(const std::string& worker_id) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool IsUsable(const Seat& seat) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  std::string DescribeMissing() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Changed() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Brings the counts of the table up to date; says once when experts lack replicas.
  void CountExperts() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // The next epoch with a new message made of table and readiness.
  void Publish() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const RegistryOptions options_;
  const base::Clock* const clock_;

  mutable absl::Mutex mutex_;
  std::map<std::string, Member> members_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_order_ ABSL_GUARDED_BY(mutex_) = 0;
  ExpertShape shape_ ABSL_GUARDED_BY(mutex_);
  std::optional<PlacementTable> table_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, absl::Duration> vacant_since_ ABSL_GUARDED_BY(mutex_);  // by last_worker_id
  absl::Status deal_status_ ABSL_GUARDED_BY(mutex_);
  // Of the published table: whatever changes it is published.
  uint64_t uncovered_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t below_replicas_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t epoch_ ABSL_GUARDED_BY(mutex_);
  std::shared_ptr<const membership::v1::Placement> placement_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tandem::coordinator
