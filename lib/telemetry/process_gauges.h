// The process_* families every Prometheus client offers (CPU, memory, file descriptors), read from
// /proc when asked, so that an alert on descriptors or memory works for our programs as for any
// other.
#pragma once

#include <vector>

#include "prometheus/metric_family.h"

namespace tandem::telemetry {

// process_cpu_seconds_total, process_resident_memory_bytes, process_virtual_memory_bytes,
// process_open_fds, process_max_fds, process_threads, process_start_time_seconds. A family that
// /proc does not give is left out.
std::vector<prometheus::MetricFamily> ProcessMetricFamilies();

}  // namespace tandem::telemetry
