#include "bench/limits/compute_peaks.h"

#include <algorithm>
#include <atomic>
#include <thread>

#include "absl/time/time.h"
#include "bench/limits/peak_loops.h"
#include "lib/base/clock.h"

namespace tandem::bench {
namespace {

constexpr int kBursts = 8;
constexpr double kBurstSeconds = 5e-3;  // long against a clock read, short against a time slice

double Seconds() { return absl::ToDoubleSeconds(base::RealClock().Monotonic()); }

// Turns that take about one burst: doubled until one run is long enough to measure.
int64_t TurnsOfBurst(const PeakLoop& loop) {
  for (int64_t turns = 1024;; turns *= 2) {
    const double start = Seconds();
    loop.run(turns);
    if (Seconds() - start > kBurstSeconds / 2) return turns * 2;
  }
}

// Operations a second of one burst on all threads: counted from the common start to the last end.
double BurstGops(const PeakLoop& loop, int64_t turns, int threads) {
  std::atomic<int> ready{0};
  std::atomic<bool> go{false};
  std::vector<double> ends(threads, 0.0);
  std::vector<std::thread> others;
  const auto run = [&](int index) {
    if (loop.prepare != nullptr) loop.prepare();
    loop.run(turns / 16 + 1);  // wakes the unit and settles the clock rate
    ready.fetch_add(1);
    while (!go.load(std::memory_order_acquire)) std::this_thread::yield();
    loop.run(turns);
    ends[index] = Seconds();
  };
  for (int i = 1; i < threads; ++i) others.emplace_back(run, i);
  while (ready.load() != threads - 1) std::this_thread::yield();
  if (loop.prepare != nullptr) loop.prepare();
  const double start = Seconds();
  go.store(true, std::memory_order_release);
  loop.run(turns);
  ends[0] = Seconds();
  for (std::thread& thread : others) thread.join();
  const double seconds = *std::max_element(ends.begin(), ends.end()) - start;
  return static_cast<double>(loop.ops_per_turn * turns) * threads / seconds / 1e9;
}

}  // namespace

const char* NameOf(Arithmetic arithmetic) {
  switch (arithmetic) {
    case Arithmetic::kFma:
      return "fma";
    case Arithmetic::kInt8:
      return "int8";
    case Arithmetic::kBf16:
      return "bf16";
    case Arithmetic::kAmxInt8:
      return "amx_int8";
    case Arithmetic::kAmxBf16:
      return "amx_bf16";
  }
  return "unknown";
}

std::vector<ComputePeak> MeasureComputePeaks(int threads) {
  std::vector<ComputePeak> peaks;
  for (const PeakLoop& loop : SupportedPeakLoops()) {
    if (PeakOf(peaks, loop.arithmetic) > 0) continue;  // a narrower one of the same kind
    if (loop.prepare != nullptr && !loop.prepare()) continue;
    const int64_t turns = TurnsOfBurst(loop);
    ComputePeak peak{loop.arithmetic, loop.instruction, 0.0};
    for (int i = 0; i < kBursts; ++i)
      peak.gops = std::max(peak.gops, BurstGops(loop, turns, threads));
    peaks.push_back(peak);
  }
  return peaks;
}

double PeakOf(const std::vector<ComputePeak>& peaks, Arithmetic arithmetic) {
  for (const ComputePeak& peak : peaks) {
    if (peak.arithmetic == arithmetic) return peak.gops;
  }
  return 0.0;
}

}  // namespace tandem::bench
