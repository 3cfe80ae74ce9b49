#include "gpu_worker/server/engine_metrics.h"

#include "absl/time/time.h"

namespace tandem::gpu_worker {
namespace {

// From a tiny model's decode step to a long prefill step, three buckets a decade.
const std::vector<double> kStepEdges = {0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1,
                                        0.2,    0.5,   1,     2,     5,    10,   20,   50};

}  // namespace

EngineMetrics::EngineMetrics(telemetry::Metrics& m, int64_t kv_pages)
    : step_seconds_(
          m.Histogram("tandem_engine_step_seconds", "Time of one forward step.", kStepEdges)),
      expert_wait_seconds_(m.Histogram("tandem_engine_expert_wait_seconds",
                                       "Time of a step spent waiting for expert workers.",
                                       kStepEdges)),
      dispatch_seconds_(m.Histogram("tandem_engine_dispatch_seconds",
                                    "Time of a step spent building and sending expert rows.",
                                    kStepEdges)),
      shared_seconds_(m.Histogram("tandem_engine_shared_expert_seconds",
                                  "Time of a step in shared experts, while expert rows are away.",
                                  kStepEdges)),
      steps_(m.Counter("tandem_engine_steps_total", "Steps executed.")),
      steps_refused_(
          m.Counter("tandem_engine_steps_failed_total", "Steps refused or failed as a whole.")),
      slices_failed_(m.Counter("tandem_engine_slices_failed_total",
                               "Slices whose sequence failed within a good step.")),
      prefill_rows_(m.Counter("tandem_engine_rows_total", "Rows computed.", {{"kind", "prefill"}})),
      decode_rows_(m.Counter("tandem_engine_rows_total", "Rows computed.", {{"kind", "decode"}})),
      tokens_(m.Counter("tandem_engine_tokens_total", "Tokens sampled.")),
      sent_bytes_(m.Counter("tandem_engine_wire_bytes_total", "Bytes of expert messages.",
                            {{"direction", "sent"}})),
      received_bytes_(m.Counter("tandem_engine_wire_bytes_total", "Bytes of expert messages.",
                                {{"direction", "received"}})),
      frames_(m.Counter("tandem_engine_expert_calls_total", "Calls to expert workers.")),
      frames_failed_(
          m.Counter("tandem_engine_expert_calls_failed_total",
                    "Calls to expert workers that failed and were tried elsewhere or given up.")),
      answers_shm_(m.Counter("tandem_engine_expert_answers_total",
                             "Answers of expert workers, by transport.", {{"transport", "shm"}})),
      answers_grpc_(m.Counter("tandem_engine_expert_answers_total",
                              "Answers of expert workers, by transport.", {{"transport", "grpc"}})),
      expert_compute_seconds_(
          m.Counter("tandem_engine_expert_compute_seconds_total",
                    "Time expert workers say they computed, added over all answers.")),
      pages_used_(m.Gauge("tandem_engine_kv_pages_used", "KV pages that hold a sequence.")),
      sequences_(m.Gauge("tandem_engine_sequences", "Sequences that live.")) {
  m.Gauge("tandem_engine_kv_pages", "KV pages there are.").Set(static_cast<double>(kv_pages));
}

void EngineMetrics::Observe(const engine::v1::StepPlan& plan, const engine::v1::StepResult& result,
                            const Engine& engine, const ExpertLink* experts) {
  (result.status_code() == 0 ? steps_ : steps_refused_).Increment();
  step_seconds_.Observe(static_cast<double>(result.compute_us()) * 1e-6);
  pages_used_.Set(static_cast<double>(engine.sequences().pages_used()));
  sequences_.Set(static_cast<double>(engine.sequences().size()));
  if (experts != nullptr) ObserveWire(experts->counters());
  if (result.status_code() != 0) return;
  expert_wait_seconds_.Observe(absl::ToDoubleSeconds(engine.times().expert_wait));
  dispatch_seconds_.Observe(absl::ToDoubleSeconds(engine.times().dispatch));
  shared_seconds_.Observe(absl::ToDoubleSeconds(engine.times().shared));
  for (const auto& slice : plan.slices()) {
    const bool prefill = slice.kind() == engine::v1::SLICE_KIND_PREFILL;
    (prefill ? prefill_rows_ : decode_rows_).Increment(slice.token_ids_size());
  }
  for (const auto& slice : result.slices()) {
    if (slice.has_token()) tokens_.Increment();
    if (slice.status_code() != 0) slices_failed_.Increment();
  }
}

void EngineMetrics::ObserveReset() {
  pages_used_.Set(0);
  sequences_.Set(0);
}

void EngineMetrics::ObserveWire(const WireCounters& now) {
  sent_bytes_.Increment(static_cast<double>(now.bytes_sent - seen_.bytes_sent));
  received_bytes_.Increment(static_cast<double>(now.bytes_received - seen_.bytes_received));
  frames_.Increment(static_cast<double>(now.frames - seen_.frames));
  frames_failed_.Increment(static_cast<double>(now.frames_failed - seen_.frames_failed));
  answers_shm_.Increment(static_cast<double>(now.answers_shm - seen_.answers_shm));
  answers_grpc_.Increment(static_cast<double>(now.answers_grpc - seen_.answers_grpc));
  expert_compute_seconds_.Increment(static_cast<double>(now.compute_ns - seen_.compute_ns) * 1e-9);
  seen_ = now;
}

}  // namespace tandem::gpu_worker
