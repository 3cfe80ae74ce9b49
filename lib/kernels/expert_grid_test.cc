#include "lib/kernels/expert_grid.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace tandem::kernels {
namespace {

TEST(ExpertGrid, NoSumOfTopKTermsOverflows) {
  for (int top_k = 1; top_k <= 4096; ++top_k) {
    EXPECT_LE(static_cast<int64_t>(GridLimit(top_k)) * top_k, std::numeric_limits<int32_t>::max());
    if (top_k > 15) {
      EXPECT_GT(2 * static_cast<int64_t>(GridLimit(top_k)) * top_k,
                std::numeric_limits<int32_t>::max())
          << "a finer grid would have fitted";
    }
  }
  EXPECT_EQ(GridLimit(8), 1 << 27);
}

TEST(ExpertGrid, ExponentIsTheSmallestThatCovers) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> magnitude(-20, 20);
  for (int i = 0; i < 10000; ++i) {
    const float x = static_cast<float>(std::exp2(magnitude(random)));
    for (int top_k : {1, 8, 16}) {
      const int s = GridExponent(x, 1.0f, top_k);
      const double covered = std::ldexp(GridLimit(top_k), s);
      EXPECT_GE(covered, 64.0 * x);
      EXPECT_LT(covered / 2, 64.0 * x);
    }
  }
  EXPECT_EQ(GridExponent(1.0f, 1.0f, 8), 6 - 27);  // a power of two exactly
  EXPECT_EQ(GridExponent(0.0f, 1.0f, 8), kGridExponentMin);
  EXPECT_EQ(GridExponent(1e-38f, 1.0f, 8), kGridExponentMin);
  EXPECT_EQ(GridExponent(INFINITY, 1.0f, 8), kGridExponentMax);
  EXPECT_EQ(GridExponent(NAN, 1.0f, 8), kGridExponentMax);
  EXPECT_EQ(GridExponent(3e38f, 1.0f, 8), kGridExponentMax);
}

TEST(ExpertGrid, EncodesToNearestEvenAndFlagsWhatIsOutside) {
  const int32_t limit = GridLimit(8);
  EXPECT_EQ(GridEncode(2.5f, 0, limit).steps, 2);
  EXPECT_EQ(GridEncode(3.5f, 0, limit).steps, 4);
  EXPECT_EQ(GridEncode(-2.5f, 0, limit).steps, -2);
  EXPECT_EQ(GridEncode(-0.75f, -1, limit).steps, -2);
  EXPECT_EQ(GridEncode(1e-40f, 0, limit).steps, 0);
  EXPECT_TRUE(GridEncode(static_cast<float>(limit), 0, limit).inside);
  EXPECT_TRUE(GridEncode(-static_cast<float>(limit), 0, limit).inside);
  EXPECT_FALSE(GridEncode(static_cast<float>(limit) + 16, 0, limit).inside);
  EXPECT_FALSE(GridEncode(3e38f, kGridExponentMin, limit).inside);
  EXPECT_FALSE(GridEncode(INFINITY, 0, limit).inside);
  EXPECT_FALSE(GridEncode(NAN, 0, limit).inside);
}

TEST(ExpertGrid, AnyGroupingGivesTheSameBitsWithinHalfAStepPerTerm) {
  std::mt19937 random(2);
  std::normal_distribution<float> normal;
  for (int trial = 0; trial < 1000; ++trial) {
    std::vector<float> terms(8);
    for (float& term : terms) term = normal(random);
    const int s = GridExponent(1.0f, 1.0f, 8);
    double exact = 0;
    for (float term : terms) exact += term;
    float first = 0;
    for (int order = 0; order < 5; ++order) {
      std::shuffle(terms.begin(), terms.end(), random);
      const size_t split = random() % (terms.size() + 1);
      int32_t worker_a = 0, worker_b = 0;
      for (size_t i = 0; i < terms.size(); ++i) {
        (i < split ? worker_a : worker_b) += GridEncode(terms[i], s, GridLimit(8)).steps;
      }
      const float sum = GridDecode(worker_a + worker_b, s);
      if (order == 0) first = sum;
      ASSERT_EQ(sum, first);
    }
    ASSERT_NEAR(first, exact, 8 * 0.5 * std::exp2(s) + std::abs(exact) * std::exp2(-24));
  }
}

}  // namespace
}  // namespace tandem::kernels
