#include "eval_client/stats/bootstrap.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <random>

#include "lib/base/check.h"

namespace tandem::eval {
namespace {

// An index below `count`. The standard's distributions may differ between libraries, so the upper
// 64 bits of a product stand in for them: for fewer than 2^32 questions the bias is below 2^-32.
size_t DrawBelow(std::mt19937_64& random, size_t count) {
  __extension__ using Wide = unsigned __int128;
  return static_cast<size_t>((static_cast<Wide>(random()) * count) >> 64);
}

}  // namespace

double Quantile(const std::vector<double>& sorted, double q) {
  TANDEM_CHECK(!sorted.empty() && q >= 0.0 && q <= 1.0);
  const double place = q * static_cast<double>(sorted.size() - 1);
  const size_t below = static_cast<size_t>(place);
  const size_t above = std::min(below + 1, sorted.size() - 1);
  return sorted[below] + (place - std::floor(place)) * (sorted[above] - sorted[below]);
}

Interval BootstrapMean95(const std::vector<double>& values, uint64_t seed, int resamples) {
  TANDEM_CHECK(!values.empty());
  TANDEM_CHECK_GE(resamples, 40);  // fewer have no 2.5 % to cut off
  std::mt19937_64 random(seed);
  std::vector<double> means(resamples);
  for (double& mean : means) {
    double sum = 0.0;
    for (size_t i = 0; i < values.size(); ++i) sum += values[DrawBelow(random, values.size())];
    mean = sum / static_cast<double>(values.size());
  }
  std::sort(means.begin(), means.end());
  return {Quantile(means, 0.025), Quantile(means, 0.975)};
}

}  // namespace tandem::eval
