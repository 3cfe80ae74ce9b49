#include "bench/limits/quiet.h"

#include <unistd.h>

#include <algorithm>
#include <ctime>
#include <fstream>
#include <string>

#include "lib/base/clock.h"

namespace tandem::bench {
namespace {

LoadSample Now() {
  LoadSample now;
  now.wall_s = absl::ToDoubleSeconds(base::RealClock().Monotonic());
  now.own_cpu_s = ProcessCpuSeconds();
  std::ifstream file("/proc/stat");
  std::string label;
  // user nice system idle iowait irq softirq steal (proc(5)).
  double ticks[8] = {};
  file >> label;
  for (double& each : ticks) file >> each;
  const auto per_second = static_cast<double>(sysconf(_SC_CLK_TCK));
  now.other_cpu_s = (ticks[0] + ticks[1] + ticks[2] + ticks[5] + ticks[6]) / per_second;
  now.stolen_s = ticks[7] / per_second;
  return now;
}

}  // namespace

double ProcessCpuSeconds() {
  timespec time = {};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

LoadMeter::LoadMeter() : start_(Now()) {}

LoadSample LoadMeter::Read() const {
  const LoadSample now = Now();
  LoadSample passed;
  passed.wall_s = now.wall_s - start_.wall_s;
  passed.own_cpu_s = now.own_cpu_s - start_.own_cpu_s;
  passed.other_cpu_s = std::max(0.0, now.other_cpu_s - start_.other_cpu_s - passed.own_cpu_s);
  passed.stolen_s = now.stolen_s - start_.stolen_s;
  return passed;
}

}  // namespace tandem::bench
