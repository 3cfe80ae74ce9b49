#include "lib/telemetry/metrics.h"

#include <exception>

#include "lib/base/check.h"
#include "lib/telemetry/process_gauges.h"
#include "prometheus/text_serializer.h"

namespace tandem::telemetry {
namespace {

// A name used with two types or an illegal name is a bug of ours, which prometheus-cpp reports by
// throwing.
template <typename Build>
auto& OrDie(const std::string& name, Build&& build) {
  try {
    return build();
  } catch (const std::exception& error) {
    base::CheckFailed(__FILE__, __LINE__, "metric " + name + ": " + error.what());
  }
}

}  // namespace

Metrics::Metrics() : registry_(std::make_shared<prometheus::Registry>()) {}

prometheus::Counter& Metrics::Counter(const std::string& name, const std::string& help,
                                      const prometheus::Labels& labels) {
  return OrDie(name, [&]() -> prometheus::Counter& {
    return prometheus::BuildCounter().Name(name).Help(help).Register(*registry_).Add(labels);
  });
}

prometheus::Gauge& Metrics::Gauge(const std::string& name, const std::string& help,
                                  const prometheus::Labels& labels) {
  return OrDie(name, [&]() -> prometheus::Gauge& {
    return prometheus::BuildGauge().Name(name).Help(help).Register(*registry_).Add(labels);
  });
}

prometheus::Histogram& Metrics::Histogram(const std::string& name, const std::string& help,
                                          const std::vector<double>& bucket_edges,
                                          const prometheus::Labels& labels) {
  return OrDie(name, [&]() -> prometheus::Histogram& {
    return prometheus::BuildHistogram()
        .Name(name)
        .Help(help)
        .Register(*registry_)
        .Add(labels, bucket_edges);
  });
}

std::string Metrics::Text() {
  std::vector<prometheus::MetricFamily> families = registry_->Collect();
  for (prometheus::MetricFamily& family : ProcessMetricFamilies()) {
    families.push_back(std::move(family));
  }
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace tandem::telemetry
