#include "gpu_worker/backend/best_of_row.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>

namespace tandem::gpu_worker {
namespace {

std::vector<TokenLogit> Best(std::span<const float> logits, size_t k, uint32_t first_id = 0) {
  std::vector<TokenLogit> best(k, {5, 1e30f});  // what was there before does not matter
  EXPECT_EQ(BestOfRow(logits, first_id, best), kNoToken);
  return best;
}

void ExpectFirstOfASort(const std::vector<float>& logits, uint32_t first_id) {
  std::vector<TokenLogit> order;
  for (uint32_t i = 0; i < logits.size(); ++i) order.push_back({first_id + i, logits[i]});
  std::sort(order.begin(), order.end(), MoreLikely);
  for (const size_t k : {1, 2, 20, 64}) {
    std::vector<TokenLogit> expected = order;
    expected.resize(k, kNoTokenLogit);
    ASSERT_EQ(Best(logits, k, first_id), expected) << logits.size() << " " << k;
  }
}

TEST(BestOfRowTest, IsTheBeginningOfASort) {
  std::mt19937 random(1);
  for (const size_t count : {0, 1, 2, 63, 64, 65, 511, 512, 513, 5000}) {
    for (const float spread : {0.5f, 3.0f, 1e30f}) {
      std::normal_distribution<float> normal(0, spread);
      std::vector<float> logits(count);
      for (float& v : logits) v = normal(random);
      ExpectFirstOfASort(logits, 0);
      for (float& v : logits) v = std::round(v);  // ties; with the smallest spread many -0 and 0
      ExpectFirstOfASort(logits, 100);
      std::sort(logits.begin(), logits.end());
      ExpectFirstOfASort(logits, 7);
    }
  }
}

TEST(BestOfRowTest, ZerosOfBothSignsAreEqual) {
  EXPECT_EQ(Best(std::vector<float>{-1, -0.0f, 0, -0.0f}, 2),
            (std::vector<TokenLogit>{{1, -0.0f}, {2, 0}}));
}

TEST(BestOfRowTest, TheLowestThatIsNotFiniteIsNamed) {
  std::vector<TokenLogit> best(3);
  for (const float bad : {NAN, -NAN, HUGE_VALF, -HUGE_VALF}) {
    std::vector<float> logits(2000, 1.0f);
    logits[1999] = bad;
    EXPECT_EQ(BestOfRow(logits, 0, best), 1999u);
    logits[700] = HUGE_VALF;
    logits[600] = bad;
    EXPECT_EQ(BestOfRow(logits, 10, best), 610u);
  }
  EXPECT_EQ(BestOfRow(std::vector<float>{-3.4e38f, 3.4e38f, 1e-45f}, 0, best), kNoToken);
}

}  // namespace
}  // namespace tandem::gpu_worker
