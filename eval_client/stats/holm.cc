#include "eval_client/stats/holm.h"

#include <algorithm>
#include <cstddef>
#include <numeric>

#include "lib/base/check.h"

namespace tandem::eval {

std::vector<double> HolmAdjusted(const std::vector<double>& p_values) {
  std::vector<size_t> order(p_values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return p_values[a] < p_values[b]; });
  std::vector<double> adjusted(p_values.size());
  double largest = 0.0;  // a smaller p value never ends with a larger adjusted one
  for (size_t rank = 0; rank < order.size(); ++rank) {
    const double p = p_values[order[rank]];
    TANDEM_CHECK(p >= 0.0 && p <= 1.0);
    largest = std::max(largest, static_cast<double>(order.size() - rank) * p);
    adjusted[order[rank]] = std::min(1.0, largest);
  }
  return adjusted;
}

}  // namespace tandem::eval
