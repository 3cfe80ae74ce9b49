#include "eval_client/stats/mcnemar.h"

#include <algorithm>
#include <cmath>

#include "lib/base/check.h"

namespace tandem::eval {

double McNemarExactP(int64_t only_first, int64_t only_second) {
  TANDEM_CHECK_GE(only_first, 0);
  TANDEM_CHECK_GE(only_second, 0);
  const int64_t trials = only_first + only_second;
  const int64_t fewer = std::min(only_first, only_second);
  if (trials == 0) return 1.0;
  // Each term as a logarithm: 2^-trials alone would underflow from 1075 differing questions on.
  double tail = 0.0;
  for (int64_t k = 0; k <= fewer; ++k) {
    const double log_choose =
        std::lgamma(trials + 1.0) - std::lgamma(k + 1.0) - std::lgamma(trials - k + 1.0);
    tail += std::exp(log_choose - static_cast<double>(trials) * std::log(2.0));
  }
  return std::min(1.0, 2.0 * tail);
}

}  // namespace tandem::eval
