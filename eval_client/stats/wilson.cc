#include "eval_client/stats/wilson.h"

#include <algorithm>
#include <cmath>

#include "lib/base/check.h"

namespace tandem::eval {

// The standard normal's 97.5 % quantile.
constexpr double kZ = 1.959963984540054;

Interval WilsonInterval95(int64_t successes, int64_t trials) {
  TANDEM_CHECK_GE(successes, 0);
  TANDEM_CHECK_LE(successes, trials);
  if (trials == 0) return {};
  const double n = static_cast<double>(trials);
  const double share = static_cast<double>(successes) / n;
  const double shrink = 1.0 + kZ * kZ / n;
  const double center = (share + kZ * kZ / (2.0 * n)) / shrink;
  const double half = kZ / shrink * std::sqrt(share * (1.0 - share) / n + kZ * kZ / (4.0 * n * n));
  // At 0 and at `trials` successes one bound is 0 or 1 exactly; rounding must not say otherwise.
  return {successes == 0 ? 0.0 : std::max(0.0, center - half),
          successes == trials ? 1.0 : std::min(1.0, center + half)};
}

}  // namespace tandem::eval
