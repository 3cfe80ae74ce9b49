// What the coordinator counts. Names follow vLLM's with our prefix, so that its dashboards work
// after a search and replace; docs/metrics.md explains each.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "lib/telemetry/metrics.h"

namespace tandem::coordinator {

struct CoordinatorMetrics {
  // `metrics` must outlive this.
  explicit CoordinatorMetrics(telemetry::Metrics* metrics);

  prometheus::Gauge& requests_running;
  prometheus::Gauge& requests_waiting;
  prometheus::Gauge& kv_cache_usage;  // 0 to 1
  prometheus::Counter& prompt_tokens;
  prometheus::Counter& generation_tokens;
  prometheus::Counter& preemptions;
  prometheus::Counter& replays;
  prometheus::Counter& requests_refused;
  prometheus::Histogram& queue_seconds;
  prometheus::Histogram& first_token_seconds;
  prometheus::Histogram& inter_token_seconds;
  prometheus::Histogram& e2e_seconds;
  prometheus::Histogram& iteration_rows;
  prometheus::Histogram& step_seconds;
  prometheus::Histogram& step_compute_seconds;
  prometheus::Histogram& step_expert_wait_seconds;

  void CountEnd(const absl::Status& status, const std::string& finish_reason);

 private:
  telemetry::Metrics* metrics_;
};

}  // namespace tandem::coordinator
