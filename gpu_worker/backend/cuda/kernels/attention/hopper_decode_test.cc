// Hopper's decode attention against float64, with poison in everything that must not be read; and
// against itself, alone and among others, dealt to one thread block and to several.
#include "gpu_worker/backend/cuda/kernels/attention/hopper_decode.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/device/device_test_support.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int64_t kLatent = 512, kKey = 576;
constexpr uint16_t kNan = 0x7fc0;
// A page number that no cache has: reading it is a crash.
constexpr int32_t kNoPage = 2147480000;

struct Step {
  MlaShape shape;
  std::vector<int32_t> lengths;
  std::vector<uint16_t> q;      // [rows, heads, 576] bf16
  std::vector<uint16_t> cache;  // [pages, 64, 576]; NaN where no row has a key
  std::vector<int32_t> page_table;
  int64_t stride = 0;
};

// Pages of all rows in a random order among spare ones.
Step MakeStep(int64_t heads, std::vector<int32_t> lengths) {
  Step step;
  step.shape = {.heads = heads,
                .latent = kLatent,
                .rope = kKey - kLatent,
                // Scores with a standard deviation of about 3: neither flat nor one-hot.
                .softmax_scale = 3.0f / std::sqrt(static_cast<float>(kKey))};
  std::mt19937 random(static_cast<unsigned>(heads));
  std::normal_distribution<float> normal;
  int64_t pages_all = 3;
  for (const int32_t length : lengths) pages_all += (length + 63) / 64;
  step.stride = (*std::max_element(lengths.begin(), lengths.end()) + 63) / 64 + 2;
  step.q.resize(lengths.size() * heads * kKey);
  for (uint16_t& v : step.q) v = F32ToBF16(normal(random));
  std::vector<int32_t> pages(pages_all);
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), random);
  step.cache.assign(pages_all * kPageTokens * kKey, kNan);
  step.page_table.assign(lengths.size() * step.stride, kNoPage);
  for (size_t row = 0; row < lengths.size(); ++row) {
    for (int32_t token = 0; token < lengths[row]; ++token) {
      int32_t& page = step.page_table[row * step.stride + token / kPageTokens];
      if (page == kNoPage) page = pages.back(), pages.pop_back();
      for (int64_t c = 0; c < kKey; ++c) {
        step.cache[(page * kPageTokens + token % kPageTokens) * kKey + c] =
            F32ToBF16(normal(random));
      }
    }
  }
  step.lengths = std::move(lengths);
  return step;
}

struct Result {
  std::vector<uint16_t> out;  // [rows, heads, 512]
  std::vector<float> lse;     // [rows, heads]
};

Result Decode(const Step& step, int multiprocessors) {
  DeviceForTest device;
  const auto rows = static_cast<int64_t>(step.lengths.size());
  const int32_t longest = *std::max_element(step.lengths.begin(), step.lengths.end());
  const DecodePlan plan = PlanDecode(step.shape, step.lengths, rows, longest, multiprocessors);
  const size_t workspace_bytes = DecodeWorkspaceBytes(step.shape, rows, longest, multiprocessors);
  auto* const out = device.Allocate<uint16_t>(rows * step.shape.heads * kLatent);
  auto* const lse = device.Allocate<float>(rows * step.shape.heads);
  MlaDecode({.kernels = Kernels::kHopper,
             .shape = step.shape,
             .q = device.Upload(step.q),
             .cache = device.Upload(step.cache),
             .page_table = device.Upload(step.page_table),
             .page_table_stride = step.stride,
             .lengths = device.Upload(step.lengths),
             .rows = rows,
             .out = out,
             .lse = lse,
             .plan = device.Upload(plan.words),
             .workspace = device.Allocate<uint8_t>(workspace_bytes),
             .workspace_bytes = workspace_bytes,
             .multiprocessors = multiprocessors,
             .shared_bytes_max = UseDevice(0)->shared_bytes_max},
            device.stream());
  return {device.Download(out, rows * step.shape.heads * kLatent),
          device.Download(lse, rows * step.shape.heads)};
}

// Of one row and head in float64.
struct Exact {
  std::vector<double> mean = std::vector<double>(kLatent);
  std::vector<double> absolute = std::vector<double>(kLatent);  // mean of |value|
  double lse = -std::numeric_limits<double>::infinity();
};

Exact Attend(const Step& step, int64_t row, int64_t head) {
  Exact exact;
  const uint16_t* const q = step.q.data() + (row * step.shape.heads + head) * kKey;
  std::vector<const uint16_t*> keys;
  std::vector<double> scores;
  for (int32_t token = 0; token < step.lengths[row]; ++token) {
    const int64_t page = step.page_table[row * step.stride + token / kPageTokens];
    keys.push_back(step.cache.data() + (page * kPageTokens + token % kPageTokens) * kKey);
    double score = 0;
    for (int64_t c = 0; c < kKey; ++c) score += double{BF16ToF32(q[c])} * BF16ToF32(keys.back()[c]);
    scores.push_back(score * step.shape.softmax_scale);
  }
  if (keys.empty()) return exact;
  const double max = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const double score : scores) sum += std::exp(score - max);
  exact.lse = max + std::log(sum);
  for (size_t j = 0; j < keys.size(); ++j) {
    const double p = std::exp(scores[j] - exact.lse);
    for (int64_t c = 0; c < kLatent; ++c) {
      exact.mean[c] += p * BF16ToF32(keys[j][c]);
      exact.absolute[c] += p * std::abs(BF16ToF32(keys[j][c]));
    }
  }
  return exact;
}

// Roundings: the result to bf16 and each p to bf16, 2^-8 of their size each; scores and sums in
// f32, for which 2^-12 of |values| is ample (scores of size 12 with 576 products: a relative error
// of p of 12 * 2^-24 * sqrt(576) = 2^-16).
void ExpectExact(const Step& step, const Result& result) {
  double dot = 0, found_2 = 0, exact_2 = 0, difference_2 = 0;
  for (size_t pair = 0; pair < result.lse.size(); ++pair) {
    const auto heads = static_cast<size_t>(step.shape.heads);
    const Exact exact = Attend(step, pair / heads, pair % heads);
    if (std::isinf(exact.lse)) {
      ASSERT_EQ(result.lse[pair], -std::numeric_limits<float>::infinity()) << pair;
    } else {
      ASSERT_NEAR(result.lse[pair], exact.lse, 1e-4 * std::max(1.0, std::abs(exact.lse))) << pair;
    }
    for (int64_t c = 0; c < kLatent; ++c) {
      const double found = BF16ToF32(result.out[pair * kLatent + c]), expected = exact.mean[c];
      ASSERT_NEAR(found, expected,
                  0x1p-8 * std::abs(expected) + (0x1p-8 + 0x1p-12) * exact.absolute[c])
          << "pair " << pair << " column " << c;
      dot += found * expected;
      found_2 += found * found;
      exact_2 += expected * expected;
      difference_2 += (found - expected) * (found - expected);
    }
  }
  EXPECT_LT(1 - 2 * dot / (found_2 + exact_2), 5e-6);
  EXPECT_LT(std::sqrt(difference_2 / exact_2), 4e-3);
}

class HopperDecode : public testing::Test {
 protected:
  void SetUp() override {
    const auto properties = UseDevice(0);
    ASSERT_TRUE(properties.ok());
    if (properties->major != 9) GTEST_SKIP() << "needs a GPU of compute capability 9.0";
  }
};

// Lengths around a page; rows of one, two and three parts (two, five pages: 4 and 5 are two and
// three parts), so that items of one and of several pages follow each other in a thread block.
TEST_F(HopperDecode, IsExactForALayerOfAllHeads) {
  const Step step = MakeStep(128, {65, 1, 0, 200});
  ExpectExact(step, Decode(step, 3));
}

TEST_F(HopperDecode, IsExactForHeadsThatDoNotFillATile) {
  for (const int64_t heads : {33, 63, 80}) {
    const Step step = MakeStep(heads, {63, 130});
    ExpectExact(step, Decode(step, 2));
  }
}

TEST_F(HopperDecode, ManyPagesThroughOneThreadBlock) {
  const Step step = MakeStep(64, {64, 0, 128, 320, 7});
  ExpectExact(step, Decode(step, 1));
}

TEST_F(HopperDecode, ARowHasTheSameBitsInAnyCompanyAndDealing) {
  const Step step = MakeStep(64, {65, 0, 330, 128});
  const Result together = Decode(step, 2), again = Decode(step, 7);
  ExpectExact(step, together);
  EXPECT_EQ(together.out, again.out);
  EXPECT_EQ(std::memcmp(together.lse.data(), again.lse.data(), together.lse.size() * 4), 0);
  for (size_t row = 0; row < step.lengths.size(); ++row) {
    if (step.lengths[row] == 0) continue;
    Step alone = step;
    const int64_t row_values = 64 * kKey;
    alone.lengths = {step.lengths[row]};
    alone.q.assign(step.q.begin() + row * row_values, step.q.begin() + (row + 1) * row_values);
    alone.page_table.assign(step.page_table.begin() + row * step.stride,
                            step.page_table.begin() + (row + 1) * step.stride);
    const Result one = Decode(alone, 1);
    EXPECT_EQ(
        std::memcmp(one.out.data(), together.out.data() + row * 64 * kLatent, one.out.size() * 2),
        0)
        << row;
    EXPECT_EQ(std::memcmp(one.lse.data(), together.lse.data() + row * 64, one.lse.size() * 4), 0);
  }
}

TEST(HopperDecodeShapes, AreSaid) {
  const auto shape = [](int64_t heads, int64_t latent) {
    return MlaShape{.heads = heads, .latent = latent, .rope = 64};
  };
  EXPECT_TRUE(HasHopperDecode(shape(128, 512), Storage::kBf16));
  EXPECT_TRUE(HasHopperDecode(shape(33, 512), Storage::kBf16));
  EXPECT_FALSE(HasHopperDecode(shape(32, 512), Storage::kBf16));
  EXPECT_FALSE(HasHopperDecode(shape(64, 64), Storage::kBf16));
  EXPECT_FALSE(HasHopperDecode(shape(64, 512), Storage::kF32));
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
