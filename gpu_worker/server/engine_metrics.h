// The GPU worker's metrics (docs/metrics.md), declared in one place and brought up to date after
// each step.
#pragma once

#include "gpu_worker/engine/engine.h"
#include "gpu_worker/experts/link.h"
#include "lib/telemetry/metrics.h"
#include "proto/engine.pb.h"

namespace tandem::gpu_worker {

class EngineMetrics {
 public:
  // `metrics` must outlive this.
  EngineMetrics(telemetry::Metrics& metrics, int64_t kv_pages);

  // `experts` may be null.
  void Observe(const engine::v1::StepPlan& plan, const engine::v1::StepResult& result,
               const Engine& engine, const ExpertLink* experts);
  void ObserveReset();

 private:
  void ObserveWire(const WireCounters& now);

  prometheus::Histogram &step_seconds_, &expert_wait_seconds_, &dispatch_seconds_, &shared_seconds_;
  prometheus::Counter &steps_, &steps_refused_, &slices_failed_;
  prometheus::Counter &prefill_rows_, &decode_rows_, &tokens_;
  prometheus::Counter &sent_bytes_, &received_bytes_, &frames_, &frames_failed_;
  prometheus::Counter &answers_shm_, &answers_grpc_, &expert_compute_seconds_;
  prometheus::Gauge &pages_used_, &sequences_;
  WireCounters seen_;
};

}  // namespace tandem::gpu_worker
