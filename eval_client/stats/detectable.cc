#include "eval_client/stats/detectable.h"

#include <algorithm>
#include <cmath>

#include "lib/base/check.h"

namespace tandem::eval {
namespace {

// Quantiles of the standard normal: 97.5 % for the test's level, 80 % for its power.
constexpr double kZLevel = 1.959963984540054;
constexpr double kZPower = 0.8416212335729143;

// Questions Connor's formula asks for to see `difference` where a share `discordant` differs.
double QuestionsNeeded(double difference, double discordant) {
  const double spread = std::sqrt(std::max(0.0, discordant - difference * difference));
  const double root = kZLevel * std::sqrt(discordant) + kZPower * spread;
  return root * root / (difference * difference);
}

}  // namespace

double SmallestDetectableDifference(int64_t questions, double discordant) {
  TANDEM_CHECK_GE(questions, 1);
  TANDEM_CHECK(discordant >= 0.0 && discordant <= 1.0);
  const double n = static_cast<double>(questions);
  const auto needed = [discordant](double difference) {
    // Accuracies cannot differ by more than the share of questions on which the runs do.
    return QuestionsNeeded(difference, std::max(discordant, difference));
  };
  if (needed(1.0) > n) return 1.0;
  // The number needed falls as the difference grows, so halving the bracket finds where it is n.
  double low = 0.0, high = 1.0;
  for (int i = 0; i < 100; ++i) {
    const double middle = 0.5 * (low + high);
    (needed(middle) > n ? low : high) = middle;
  }
  return high;
}

}  // namespace tandem::eval
