// StepLoop: the coordinator's heart. One thread owns every running request: it asks the scheduler
// for a plan, sends it to the GPU worker, and turns the result into answers. When the GPU worker is
// lost, everything is replayed on the one that comes back.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "coordinator/kv/page_allocator.h"
#include "coordinator/membership/registry.h"
#include "coordinator/scheduler/scheduler.h"
#include "coordinator/step/coordinator_metrics.h"
#include "coordinator/step/sequence.h"
#include "lib/base/bounded_queue.h"
#include "lib/base/clock.h"
#include "lib/rpc/engine_link.h"

namespace tandem::coordinator {

struct StepLoopOptions {
  uint32_t requests_max = 1024;     // running and waiting; more are refused
  uint32_t sequences_max = 64;      // running at once
  uint32_t prefill_rows_max = 512;  // of a step
  absl::Duration step_timeout = absl::Seconds(120);
  // How long a request without a deadline waits for a cluster that is not ready.
  absl::Duration ready_wait = absl::Seconds(30);
  // A request that was in so many lost steps is given up: it may be what kills the worker.
  int attempts_max = 3;
  absl::Duration reconnect_wait = absl::Milliseconds(200);
};

// Where the loop learns about workers; in the product these are the registry's functions.
struct ClusterView {
  std::function<absl::Status()> readiness;
  std::function<std::vector<ReadyWorker>()> gpu_workers;
};

class StepLoop {
 public:
  // All pointers must outlive the loop. Starts the thread.
  StepLoop(const StepLoopOptions& options, ClusterView cluster, const Tokenizer* tokenizer,
           CoordinatorMetrics* metrics, const base::Clock* clock);
  // Ends what is left with UNAVAILABLE.
  ~StepLoop();

  // Thread-safe. RESOURCE_EXHAUSTED when the queue is full, UNAVAILABLE when draining; then neither
  // send nor finish is called.
  absl::Status Submit(GenerationRequest request);

  // Thread-safe. The cluster has changed: an idle loop looks at it now.
  void Wake() { inbox_.Wake(); }

  // Refuses new requests from now on.
  void Drain() { draining_ = true; }
  // Requests accepted and not finished.
  uint32_t requests() const { return requests_.load(); }
  // OK when the cluster is ready and its GPU worker is connected; otherwise UNAVAILABLE with the
  // reason.
  absl::Status Readiness() const;
  // What the GPU worker in use says about itself; nothing before the first.
  std::optional<engine::v1::DescribeResponse> engine() const;

 private:
  using Sequences = std::map<uint64_t, std::unique_ptr<Sequence>>;  // by key, hence by arrival

  void Run();
  void TakeInbox();
  void EndUnwanted();
  void EndUnservable(const absl::Status& reason);
  // Fails when there is no GPU worker to send a plan to.
  absl::Status EnsureLink();
  absl::Status OpenLink(const ReadyWorker& worker);
  void RefuseWhatNeverFits();
  StepDecision Decide() const;
  void RunStep();
  // How long the step may take: until the last deadline of its requests, when all have one.
  absl::Duration StepAllowance(const StepDecision& decision) const;
  // The step was worth nothing any more: its requests end.
  void ExpireStep(const StepDecision& decision);
  engine::v1::StepPlan BuildPlan(const StepDecision& decision);
  void AddSlice(const SliceDecision& slice, engine::v1::StepPlan* plan);
  void Preempt(const std::vector<uint64_t>& keys);
  absl::Status CheckResult(const engine::v1::StepPlan& plan,
                           const engine::v1::StepResult& result) const;
  void FreeReleased();
  void ApplyResult(const engine::v1::StepPlan& plan, const StepDecision& decision,
                   engine::v1::StepResult result);
  void ApplySlice(uint64_t key, const SliceDecision& slice, bool sampled,
                  engine::v1::SliceResult result);
  void CountToken(Sequence& sequence);
  // Everything the worker held is gone: its sequences wait to be replayed. Those of `decision` were
  // in the step that was lost.
  void LoseLink(const absl::Status& why, const StepDecision& decision);

  // Ends a running or waiting sequence. Its pages and the worker's state of it are given back with
  // the next step.
  void End(Sequences::iterator it, Sequences* from, const absl::Status& status,
           const std::string& finish_reason = "");
  void Retire(Sequence& sequence);
  void SetTimes(const Sequence& sequence, inference::v1::GenerateChunk* chunk) const;
  void UpdateGauges();

  const StepLoopOptions options_;
  const ClusterView cluster_;
  const Tokenizer* const tokenizer_;
  CoordinatorMetrics* const metrics_;
  const base::Clock* const clock_;

  std::atomic<bool> draining_{false};
  std::atomic<bool> stopping_{false};
  std::atomic<uint32_t> requests_{0};
  std::atomic<bool> linked_{false};
  base::BoundedQueue<GenerationRequest> inbox_;

  // Of the loop's thread alone.
  Sequences running_;
  Sequences waiting_;
  uint64_t next_key_ = 1;
  uint64_t next_engine_id_ = 1;
  uint64_t next_step_id_ = 1;
  std::unique_ptr<rpc::EngineLink> link_;
  std::string link_worker_id_;  // of the link, or of the last one tried
  std::optional<PageAllocator> pages_;
  SchedulerLimits limits_;
  absl::Duration link_retry_at_;
  // Ends of sequences the worker does not know of yet, and the pages that come free when it does.
  std::vector<uint64_t> releases_;
  std::vector<uint32_t> pages_to_free_;

  mutable absl::Mutex mutex_;
  std::optional<engine::v1::DescribeResponse> engine_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace tandem::coordinator
