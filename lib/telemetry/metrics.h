// Metrics: the one registry of a process over prometheus-cpp. A metric is declared where it counts
// and listed in docs/metrics.md (a test compares). Names: tandem_<noun>_<unit>[_total].
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "prometheus/counter.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/labels.h"
#include "prometheus/registry.h"

namespace tandem::telemetry {

class Metrics {
 public:
  Metrics();

  // The same (name, labels) gives the same object; references live as long as this. Thread-safe.
  prometheus::Counter& Counter(const std::string& name, const std::string& help,
                               const prometheus::Labels& labels = {});
  prometheus::Gauge& Gauge(const std::string& name, const std::string& help,
                           const prometheus::Labels& labels = {});
  prometheus::Histogram& Histogram(const std::string& name, const std::string& help,
                                   const std::vector<double>& bucket_edges,
                                   const prometheus::Labels& labels = {});

  // The Prometheus text exposition of everything, with process CPU, memory and fd gauges brought up
  // to date.
  std::string Text();

 private:
  std::shared_ptr<prometheus::Registry> registry_;
};

}  // namespace tandem::telemetry
