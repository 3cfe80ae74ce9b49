#include "eval_client/stats/letters.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

#include "lib/base/check.h"

namespace tandem::eval {
namespace {

// log of the sum of exp(values), without overflow.
double LogSum(const std::vector<float>& values) {
  const double highest = *std::max_element(values.begin(), values.end());
  double sum = 0.0;
  for (const float value : values) sum += std::exp(value - highest);
  return highest + std::log(sum);
}

}  // namespace

double LetterDivergence(const std::vector<float>& reference, const std::vector<float>& other) {
  TANDEM_CHECK(!reference.empty());
  TANDEM_CHECK_EQ(reference.size(), other.size());
  const double reference_sum = LogSum(reference), other_sum = LogSum(other);
  double divergence = 0.0;
  for (size_t i = 0; i < reference.size(); ++i) {
    const double p = reference[i] - reference_sum, q = other[i] - other_sum;
    divergence += std::exp(p) * (p - q);
  }
  return std::max(0.0, divergence);
}

int BestLetter(const std::vector<float>& logprobs) {
  TANDEM_CHECK(!logprobs.empty());
  return static_cast<int>(std::max_element(logprobs.begin(), logprobs.end()) - logprobs.begin());
}

}  // namespace tandem::eval
