#include "lib/telemetry/process_gauges.h"

#include <dirent.h>
#include <sys/resource.h>
#include <unistd.h>

#include <fstream>
#include <iterator>
#include <optional>
#include <sstream>
#include <string>

namespace tandem::telemetry {
namespace {

using prometheus::MetricFamily;
using prometheus::MetricType;

MetricFamily Single(const std::string& name, const std::string& help, MetricType type,
                    double value) {
  MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  prometheus::ClientMetric metric;
  if (type == MetricType::Counter) {
    metric.counter.value = value;
  } else {
    metric.gauge.value = value;
  }
  family.metric.push_back(metric);
  return family;
}

// Fields of /proc/self/stat after the program's name, which may hold spaces; field 3 of proc(5) is
// index 0.
std::vector<std::string> StatFields() {
  std::ifstream file("/proc/self/stat");
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const size_t name_end = text.rfind(')');
  if (name_end == std::string::npos) return {};
  std::istringstream rest(text.substr(name_end + 1));
  return {std::istream_iterator<std::string>(rest), {}};
}

// Seconds since the epoch at which the machine started, from the btime line of /proc/stat.
std::optional<double> BootTime() {
  std::ifstream file("/proc/stat");
  std::string key;
  double value = 0;
  for (std::string line; std::getline(file, line);) {
    std::istringstream words(line);
    if (words >> key >> value && key == "btime") return value;
  }
  return std::nullopt;
}

std::optional<double> OpenDescriptors() {
  DIR* folder = opendir("/proc/self/fd");
  if (folder == nullptr) return std::nullopt;
  double count = 0;
  while (const dirent* entry = readdir(folder)) count += entry->d_name[0] != '.';
  closedir(folder);
  return count - 1;  // the folder's own
}

void AddStat(std::vector<MetricFamily>* out) {
  const std::vector<std::string> fields = StatFields();
  constexpr size_t kUserTicks = 11, kSystemTicks = 12, kThreads = 17, kStartTicks = 19;
  constexpr size_t kVirtualBytes = 20, kResidentPages = 21;
  if (fields.size() <= kResidentPages) return;
  const auto field = [&](size_t i) { return std::strtod(fields[i].c_str(), nullptr); };
  const double ticks_per_second = static_cast<double>(sysconf(_SC_CLK_TCK));
  out->push_back(Single("process_cpu_seconds_total", "User and system CPU time.",
                        MetricType::Counter,
                        (field(kUserTicks) + field(kSystemTicks)) / ticks_per_second));
  out->push_back(Single("process_threads", "Threads.", MetricType::Gauge, field(kThreads)));
  out->push_back(Single("process_virtual_memory_bytes", "Virtual memory, mapped files included.",
                        MetricType::Gauge, field(kVirtualBytes)));
  out->push_back(Single("process_resident_memory_bytes", "Resident memory.", MetricType::Gauge,
                        field(kResidentPages) * static_cast<double>(sysconf(_SC_PAGESIZE))));
  if (const auto boot = BootTime()) {
    out->push_back(Single("process_start_time_seconds", "Start, in seconds since the epoch.",
                          MetricType::Gauge, *boot + field(kStartTicks) / ticks_per_second));
  }
}

}  // namespace

std::vector<MetricFamily> ProcessMetricFamilies() {
  std::vector<MetricFamily> out;
  AddStat(&out);
  if (const auto open = OpenDescriptors()) {
    out.push_back(Single("process_open_fds", "Open file descriptors.", MetricType::Gauge, *open));
  }
  rlimit limit = {};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    out.push_back(Single("process_max_fds", "Most file descriptors.", MetricType::Gauge,
                         static_cast<double>(limit.rlim_cur)));
  }
  return out;
}

}  // namespace tandem::telemetry
