// What is asked about logits beside the best of them: the sums of weights have the host's bits.
#include <gtest/gtest.h>

#include "gpu_worker/backend/cuda/kernels/rows/rows_test_support.h"
#include "gpu_worker/backend/weight_steps.h"
#include "gpu_worker/backend/weight_sum.h"

namespace tandem::gpu_worker::cuda {
namespace {

std::vector<float> Normal(int64_t count, float spread, std::mt19937& random) {
  std::normal_distribution<float> normal(0, spread);
  std::vector<float> values(count);
  for (float& v : values) v = normal(random);
  return values;
}

std::vector<uint64_t> SumsOnDevice(const std::vector<float>& logits, int64_t vocab,
                                   const std::vector<WeightSumAsk>& asks) {
  DeviceForTest device;
  const auto count = static_cast<int64_t>(asks.size());
  uint64_t* const sums = device.Allocate<uint64_t>(count);
  WeightSums(device.Upload(logits), vocab, device.Upload(asks), count, sums, device.stream());
  return device.Download(sums, count);
}

void ExpectSums(const std::vector<float>& logits, int64_t vocab,
                const std::vector<float>& temperatures) {
  std::vector<WeightSumAsk> asks;
  std::vector<uint64_t> expected;
  for (uint32_t r = 0; r < logits.size() / vocab; ++r) {
    const std::span<const float> row = std::span(logits).subspan(r * vocab, vocab);
    const float highest = *std::max_element(row.begin(), row.end());
    for (const float t : temperatures) {
      asks.push_back({r, highest, t});
      expected.push_back(WeightSum(row, highest, t));
      EXPECT_GE(expected.back(), uint64_t{1} << kWeightStepBits) << "the highest alone weighs 1";
    }
  }
  std::reverse(asks.begin(), asks.end());
  std::reverse(expected.begin(), expected.end());
  EXPECT_EQ(SumsOnDevice(logits, vocab, asks), expected);
}

TEST(WeightSteps, IsTheNearestStep) {
  EXPECT_EQ(WeightSteps(0), 0u);
  EXPECT_EQ(WeightSteps(1), uint64_t{1} << 44);
  EXPECT_EQ(WeightSteps(255), uint64_t{255} << 44);
  EXPECT_EQ(WeightSteps(0x1p-44f), 1u);
  EXPECT_EQ(WeightSteps(0x1p-45f), 0u) << "a tie goes to the even one";
  EXPECT_EQ(WeightSteps(0x1.8p-44f), 2u);
  EXPECT_EQ(WeightSteps(0x1.000002p-45f), 1u);
  EXPECT_EQ(WeightSteps(0x1.fffffep-1f), (uint64_t{1} << 44) - (uint64_t{1} << 20));
}

TEST(WeightSums, HaveTheHostsBits) {
  std::mt19937 random(1);
  for (const int64_t vocab : {1, 3, 255, 256, 4096, 4097, 9000}) {
    for (const float spread : {0.01f, 3.0f, 80.0f}) {
      ExpectSums(Normal(2 * vocab, spread, random), vocab, {1, 0.6f, 1.3f, 1e-30f, 100});
    }
  }
  const float largest = std::numeric_limits<float>::max();
  ExpectSums({-largest, largest, largest, 0, -0.0f, 1e-40f}, 6, {1, 0.01f, 100});
  ExpectSums(std::vector<float>(5000, -7.25f), 5000, {1, 3});
}

// What a token under a penalty adds has to come off again, however far it is above the others.
TEST(WeightSums, OfTokensAboveTheHighest) {
  std::mt19937 random(4);
  std::vector<float> logits = Normal(600, 2, random);
  for (const float ahead : {5.4f, 5.6f, 60.0f, 89.0f, 3e38f}) {
    logits[77] = 10 + ahead;
    EXPECT_EQ(SumsOnDevice(logits, 600, {{0, 10, 1}, {0, -30, 1}, {0, 10, 1e-3f}}),
              (std::vector<uint64_t>{WeightSum(logits, 10, 1), WeightSum(logits, -30, 1),
                                     WeightSum(logits, 10, 1e-3f)}));
  }
}

TEST(WeightSums, OfALargeVocabularyAndOfNothing) {
  std::mt19937 random(2);
  ExpectSums(Normal(163840, 3, random), 163840, {1});
  ExpectSums(std::vector<float>(262144, 1.0f), 262144, {0.7f});  // the largest sum there is
  EXPECT_TRUE(SumsOnDevice({1, 2}, 2, {}).empty());
  EXPECT_EQ(SumsOnDevice({}, 0, {{0, 1, 1}}), std::vector<uint64_t>{0});
}

TEST(PickLogits, AreThoseAskedFor) {
  std::mt19937 random(3);
  const int64_t vocab = 700;
  const std::vector<float> logits = Normal(5 * vocab, 3, random);
  std::vector<LogitPlace> places;
  std::vector<float> expected;
  for (uint32_t i = 0; i < 600; ++i) {
    places.push_back(
        {static_cast<uint32_t>(random() % 5), static_cast<uint32_t>(random() % vocab)});
    expected.push_back(logits[places[i].row * vocab + places[i].id]);
  }
  DeviceForTest device;
  const float* const on_device = device.Upload(logits);
  for (const int64_t count : {0, 1, 255, 256, 257, 600}) {
    float* const values = device.Allocate<float>(600);
    PickLogits(on_device, vocab, device.Upload(places), count, values, device.stream());
    const std::vector<float> found = device.Download(values, 600);
    for (int64_t i = 0; i < 600; ++i) {
      if (i < count) {
        ASSERT_TRUE(SameBits(found[i], expected[i]));
      } else {
        ASSERT_TRUE(std::isnan(found[i])) << "nothing is written behind";
      }
    }
  }
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
