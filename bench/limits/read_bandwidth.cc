#include "bench/limits/read_bandwidth.h"

#include <algorithm>
#include <atomic>

#include "absl/time/time.h"
#include "lib/base/check.h"
#include "lib/base/clock.h"

namespace tandem::bench {
namespace {

double Seconds() { return absl::ToDoubleSeconds(base::RealClock().Monotonic()); }

// Loads must have a use, or they would not be made.
std::atomic<uint64_t> sink{0};

}  // namespace

double Median(std::vector<double> values) {
  if (values.empty()) return 0.0;
  const size_t middle = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + middle, values.end());
  return values[middle];
}

double ReadSeconds(base::ThreadPool* pool, std::span<const std::byte> memory,
                   const ReadPattern& pattern) {
  const int64_t grains = static_cast<int64_t>(memory.size()) / kReadGrain;
  TANDEM_CHECK_GE(grains, 1);
  const double start = Seconds();
  pool->ParallelFor(grains, 1, [&](int64_t begin, int64_t end) {
    sink ^= pattern.read(memory.data() + begin * kReadGrain, (end - begin) * kReadGrain);
  });
  return Seconds() - start;
}

ReadSpeeds::ReadSpeeds() : gb_s_(ReadPatterns().size()) {}

void ReadSpeeds::Sample(base::ThreadPool* pool, std::span<const std::byte> memory) {
  const double bytes = static_cast<double>(memory.size() / kReadGrain * kReadGrain);
  const double seconds = ReadSeconds(pool, memory, ReadPatterns()[next_]);
  gb_s_[next_].push_back(bytes / seconds / 1e9);
  next_ = (next_ + 1) % gb_s_.size();
}

size_t ReadSpeeds::BestIndex() const {
  size_t best = 0;
  for (size_t i = 1; i < gb_s_.size(); ++i) {
    if (Median(gb_s_[i]) > Median(gb_s_[best])) best = i;
  }
  return best;
}

double ReadSpeeds::median_gb_s() const { return Median(gb_s_[BestIndex()]); }

double ReadSpeeds::best_gb_s() const {
  double best = 0;
  for (const auto& samples : gb_s_) {
    for (const double sample : samples) best = std::max(best, sample);
  }
  return best;
}

const char* ReadSpeeds::best_pattern() const { return ReadPatterns()[BestIndex()].name; }

}  // namespace tandem::bench
