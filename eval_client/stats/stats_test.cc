// The expected numbers are scipy 1.17.1's:
//   binomtest(k, n).proportion_ci(0.95, "wilson") and binomtest(min(a, b), a + b, 0.5).pvalue
#include <gtest/gtest.h>

#include "eval_client/stats/mcnemar.h"
#include "eval_client/stats/wilson.h"

namespace tandem::eval {
namespace {

TEST(Wilson, MatchesScipy) {
  struct Case {
    int64_t successes, trials;
    double low, high;
  };
  const Case cases[] = {
      {0, 10, 0.000000000000000, 0.277532799862889},
      {10, 10, 0.722467200137111, 1.000000000000000},
      {1, 1, 0.206549314377237, 1.000000000000000},
      {0, 1, 0.000000000000000, 0.793450685622763},
      {4, 10, 0.168180329706236, 0.687326230266342},
      {81, 100, 0.722211546209356, 0.874852484902313},
      {816, 1000, 0.790790179213587, 0.838791309423542},
      {1, 1000, 0.000176546370626, 0.005642558597958},
      {999, 1000, 0.994357441402042, 0.999823453629374},
      {7000, 14042, 0.490236099656809, 0.506773691453027},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(testing::Message() << c.successes << " of " << c.trials);
    const Interval interval = WilsonInterval95(c.successes, c.trials);
    EXPECT_NEAR(interval.low, c.low, 1e-14);
    EXPECT_NEAR(interval.high, c.high, 1e-14);
  }
}

TEST(Wilson, KnowsNothingWithoutTrials) {
  EXPECT_EQ(WilsonInterval95(0, 0).low, 0.0);
  EXPECT_EQ(WilsonInterval95(0, 0).high, 1.0);
}

TEST(Wilson, RefusesImpossibleCounts) {
  EXPECT_DEATH(WilsonInterval95(2, 1), "2 vs 1");
  EXPECT_DEATH(WilsonInterval95(-1, 1), "-1 vs 0");
}

TEST(McNemar, MatchesScipy) {
  EXPECT_EQ(McNemarExactP(0, 0), 1.0);
  EXPECT_NEAR(McNemarExactP(1, 0), 1.0, 1e-13);
  EXPECT_NEAR(McNemarExactP(5, 5), 1.0, 1e-13);
  EXPECT_NEAR(McNemarExactP(3, 12), 0.03515625, 1e-13);
  EXPECT_NEAR(McNemarExactP(12, 3), 0.03515625, 1e-13);
  EXPECT_NEAR(McNemarExactP(40, 60), 0.05688793364098089, 1e-12);
  EXPECT_NEAR(McNemarExactP(10, 30), 0.0022214337732293643, 1e-13);
  EXPECT_NEAR(McNemarExactP(1000, 1200), 2.1817026407914194e-05, 1e-14);
}

}  // namespace
}  // namespace tandem::eval
