#include "coordinator/step/coordinator_metrics.h"

#include <vector>

namespace tandem::coordinator {
namespace {

// vLLM's bucket edges, seconds.
const std::vector<double> kFirstTokenEdges = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,
                                              0.25,  0.5,   0.75, 1,    2.5,  5,    7.5,  10,
                                              20,    40,    80,   160,  640,  2560};
const std::vector<double> kInterTokenEdges = {
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80};
const std::vector<double> kRequestEdges = {0.3, 0.5, 0.8, 1,  1.5, 2,   2.5, 5,   10,   15,  20,
                                           30,  40,  50,  60, 120, 240, 480, 960, 1920, 7680};
const std::vector<double> kStepEdges = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
                                        0.5,   1,      2.5,   5,    10,    30,   60};
const std::vector<double> kRowEdges = {1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};

}  // namespace

CoordinatorMetrics::CoordinatorMetrics(telemetry::Metrics* m)
    : requests_running(
          m->Gauge("tandem_num_requests_running", "Requests with tokens in the KV cache.")),
      requests_waiting(m->Gauge("tandem_num_requests_waiting",
                                "Requests waiting for their first or next slice.")),
      kv_cache_usage(m->Gauge("tandem_kv_cache_usage_perc", "Share of KV pages in use, 0 to 1.")),
      prompt_tokens(
          m->Counter("tandem_prompt_tokens_total", "Prompt tokens computed, replays not counted.")),
      generation_tokens(m->Counter("tandem_generation_tokens_total", "Tokens generated.")),
      preemptions(m->Counter("tandem_num_preemptions_total",
                             "Requests that gave their KV pages back to others.")),
      replays(m->Counter("tandem_request_replays_total",
                         "Requests computed again after a GPU worker was lost.")),
      requests_refused(m->Counter("tandem_requests_refused_total",
                                  "Requests refused because the queue was full.")),
      queue_seconds(m->Histogram("tandem_request_queue_time_seconds", "Arrival to first slice.",
                                 kRequestEdges)),
      first_token_seconds(m->Histogram("tandem_time_to_first_token_seconds",
                                       "Arrival to first token.", kFirstTokenEdges)),
      inter_token_seconds(m->Histogram("tandem_inter_token_latency_seconds",
                                       "Between two tokens of a request.", kInterTokenEdges)),
      e2e_seconds(
          m->Histogram("tandem_e2e_request_latency_seconds", "Arrival to end.", kRequestEdges)),
      iteration_rows(m->Histogram("tandem_iteration_tokens_total", "Rows per step.", kRowEdges)),
      step_seconds(m->Histogram("tandem_step_seconds", "Round trip of a step.", kStepEdges)),
      step_compute_seconds(
          m->Histogram("tandem_step_compute_seconds", "Step inside the GPU worker.", kStepEdges)),
      step_expert_wait_seconds(m->Histogram("tandem_step_expert_wait_seconds",
                                            "Of that, waiting for expert workers.", kStepEdges)),
      metrics_(m) {}

void CoordinatorMetrics::CountEnd(const absl::Status& status, const std::string& finish_reason) {
  if (status.ok()) {
    metrics_
        ->Counter("tandem_request_success_total", "Requests answered.",
                  {{"finished_reason", finish_reason}})
        .Increment();
  } else {
    metrics_
        ->Counter("tandem_request_failure_total", "Requests that ended with an error.",
                  {{"code", absl::StatusCodeToString(status.code())}})
        .Increment();
  }
}

}  // namespace tandem::coordinator
