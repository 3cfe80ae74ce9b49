// Decode attention against float64, with poison in everything that must not be read.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "gpu_worker/backend/cuda/kernels/attention/decode_kernels.h"
#include "gpu_worker/backend/cuda/kernels/attention/decode_test_support.h"

namespace tandem::gpu_worker::cuda::decode_test {
namespace {

const MlaShape kReal = Shape(16, 512, 64);

const std::vector<int32_t> kMixed = {0, 1, 63, 64, 65, 130, 31, 32, 33, 257, 0, 96};

struct KernelCase {
  Kernels kernels;
  Storage storage;
};
class EveryKernel : public testing::TestWithParam<KernelCase> {
 protected:
  Step Make(const MlaShape& shape, std::vector<int32_t> lengths, unsigned seed = 1) {
    return MakeStep(shape, GetParam().storage, std::move(lengths), seed);
  }
  Options Using() { return {.kernels = GetParam().kernels}; }
};

TEST_P(EveryKernel, IsExactForHeadsOfAllSizes) {
  for (const int64_t heads : {1, 3, 4, 8, 16, 20, 32}) {
    const Step step = Make(Shape(heads, 32, 16), kMixed, static_cast<unsigned>(heads));
    ExpectExact(step, RunOnce(step, Using()));
  }
}

TEST_P(EveryKernel, IsExactForSeveralHeadGroups) {
  for (const int64_t heads : {64, 80, 128}) {
    const Step step = Make(Shape(heads, 32, 16), {130, 1, 0, 70});
    ExpectExact(step, RunOnce(step, Using()));
  }
}

TEST_P(EveryKernel, IsExactForOtherShapes) {
  const Step step = Make(Shape(4, 64, 64), kMixed);
  ExpectExact(step, RunOnce(step, Using()));
  const Step real = Make(kReal, {0, 1, 129, 64});
  ExpectExact(real, RunOnce(real, Using()));
}

TEST_P(EveryKernel, DoesNothingForNoRows) {
  const Step step = Make(Shape(4, 32, 16), {});
  EXPECT_TRUE(RunOnce(step, Using()).out.empty());
}

TEST_P(EveryKernel, GivesZerosToRowsWithoutKeys) {
  Options options = Using();
  options.rows_padding = 3;
  const Step step = Make(Shape(3, 32, 16), {0, 5, 0});
  const Result result = RunOnce(step, options);
  const int64_t row_values = 3 * 32;
  for (const int64_t row : {0, 2, 3, 4, 5}) {
    for (int64_t i = 0; i < row_values; ++i) ASSERT_EQ(result.out[row * row_values + i], 0.0f);
    for (int64_t h = 0; h < 3; ++h) ASSERT_EQ(result.lse[row * 3 + h], -INFINITY);
  }
  ExpectExact(step, result);
}

TEST_P(EveryKernel, ARowIsTheSameAloneAndAmongOthers) {
  const MlaShape shape = Shape(20, 32, 16);
  const Step step = Make(shape, kMixed);
  const Result together = RunOnce(step, Using());
  for (int64_t row = 0; row < step.rows(); ++row) {
    ExpectSameRow(shape, RunOnce(Alone(step, row), Using()), 0, together, row);
  }
}

TEST_P(EveryKernel, MultiprocessorsPaddingAndSharedMemoryChangeNoBit) {
  const MlaShape shape = Shape(20, 32, 16);
  const Step step = Make(shape, kMixed);
  const Result first = RunOnce(step, Using());
  std::vector<Options> others = {{Using().kernels, 1, kSharedH100, 0},
                                 {Using().kernels, 132, kSharedH100, 7},
                                 {Using().kernels, 2, kSharedA100, 1}};
  // What the portable kernel needs for 2, 3 and 4 stages of this shape: 11392 bytes, and 32 rows of
  // 56 values for each.
  for (const size_t stages : {2, 3, 4}) {
    others.push_back({Using().kernels, 1, 11392 + stages * 3584, 0});
  }
  for (const Options& options : others) {
    const Result other = RunOnce(step, options);
    for (int64_t row = 0; row < step.rows(); ++row) ExpectSameRow(shape, first, row, other, row);
  }
}

TEST_P(EveryKernel, WhatAnEarlierStepLeftDoesNotMatter) {
  Decoder decoder(Using());
  decoder.Run(Make(Shape(32, 32, 16), {700, 300, 200}));
  for (const auto& lengths : {std::vector<int32_t>{130, 1, 300}, std::vector<int32_t>{65, 0}}) {
    const Step step = Make(Shape(20, 32, 16), lengths, 5);
    const Result after = decoder.Run(step), fresh = RunOnce(step, Using());
    for (int64_t row = 0; row < step.rows(); ++row) {
      ExpectSameRow(step.shape, after, row, fresh, row);
    }
  }
}

// Scores up to some hundreds, rising and falling from block to block: the maximum moves late.
TEST_P(EveryKernel, LargeScoresDoNotOverflow) {
  Step step = Make(Shape(3, 32, 16), {200, 130});
  for (int64_t row = 0; row < step.rows(); ++row) {
    for (int32_t token = 0; token < step.lengths[row]; ++token) {
      const int64_t page = step.page_table[row * step.stride + token / kPageTokens];
      float* key = step.cache.data() + (page * kPageTokens + token % kPageTokens) * 48;
      const float size = row == 0 ? token * 0.25f : 50.0f - token * 0.25f;
      for (int64_t c = 0; c < 48; ++c) key[c] = Rounded(key[c] * size, step.storage);
    }
  }
  const Result result = RunOnce(step, Using());
  for (int64_t pair = 0; pair < step.rows() * 3; ++pair) {
    const Exact exact = Attend(step, pair / 3, pair % 3);
    EXPECT_NEAR(result.lse[pair], exact.lse, 1e-4 * std::abs(exact.lse));
    // Scores of size 500 leave f32 2^-15 of error in them, as much relative to p.
    for (int64_t c = 0; c < 32; ++c) {
      ASSERT_NEAR(result.out[pair * 32 + c], exact.mean[c],
                  0x1p-8 * std::abs(exact.mean[c]) + (0x1p-8 + 0x1p-10) * exact.absolute[c]);
    }
  }
}

std::string NameOf(const testing::TestParamInfo<KernelCase>& info) {
  return std::string(info.param.kernels == Kernels::kReference ? "Reference" : "Portable") +
         (info.param.storage == Storage::kBf16 ? "Bf16" : "F32");
}
INSTANTIATE_TEST_SUITE_P(Decode, EveryKernel,
                         testing::Values(KernelCase{Kernels::kReference, Storage::kF32},
                                         KernelCase{Kernels::kReference, Storage::kBf16},
                                         KernelCase{Kernels::kPortable, Storage::kBf16}),
                         NameOf);

// The shapes of DeepSeek-V3 on 1, 2, 4, 8 and 16 GPUs, each with the stages of an A100 and an H100.
TEST(PortableDecode, IsExactForTheHeadsOfEveryNumberOfGpus) {
  for (const int64_t heads : {128, 64, 32, 16, 8}) {
    const Step step = MakeStep(Shape(heads, 512, 64), Storage::kBf16, {97, 65});
    const Result h100 = RunOnce(step, {});
    ExpectExact(step, h100);
    const Result a100 = RunOnce(step, {.shared_bytes_max = kSharedA100});
    for (int64_t row = 0; row < 2; ++row) ExpectSameRow(step.shape, h100, row, a100, row);
  }
}

// Parts that the combine kernel merges, and parts that a thread block merges as it goes.
TEST(PortableDecode, WholeRowsAndRowsInPartsHaveTheSameBits) {
  for (const int64_t heads : {20, 80}) {
    const MlaShape shape = Shape(heads, 32, 16);
    const Step step = MakeStep(shape, Storage::kBf16, {1100, 130, 65, 640});
    const auto slot_of_first_row = [&](int multiprocessors) {
      const DecodePlan plan = PlanDecode(shape, step.lengths, 4, 1100, multiprocessors);
      return plan.words[kPlanHeaderWords + multiprocessors + 1];
    };
    ASSERT_GE(slot_of_first_row(40), 0);
    ASSERT_EQ(slot_of_first_row(1), -1);
    const Result parts = RunOnce(step, {.multiprocessors = 40});
    const Result whole = RunOnce(step, {.multiprocessors = 1});
    for (int64_t row = 0; row < step.rows(); ++row) ExpectSameRow(shape, parts, row, whole, row);
    ExpectExact(step, whole);
  }
}

TEST(PortableDecode, SaysWhatItHas) {
  EXPECT_TRUE(HasPortableDecode(kReal, Storage::kBf16));
  EXPECT_TRUE(HasPortableDecode(Shape(4, 32, 16), Storage::kBf16));
  EXPECT_FALSE(HasPortableDecode(Shape(4, 48, 16), Storage::kBf16));
  EXPECT_FALSE(HasPortableDecode(kReal, Storage::kF32));
}

// A graph that was captured with one plan does the work of another one put in its place.
TEST(PortableDecode, AGraphFollowsThePlanInItsBuffer) {
  const MlaShape shape = Shape(20, 32, 16);
  constexpr int64_t kRows = 4, kTokensMax = 320;
  constexpr int kMultiprocessors = 3;
  DeviceForTest device;
  const Step steps[] = {MakeStep(shape, Storage::kBf16, {65, 320, 1}, 2),
                        MakeStep(shape, Storage::kBf16, {320, 0, 129, 64}, 3)};
  const size_t cache_values = 12 * kPageTokens * shape.key(), table_size = kRows * 7;
  auto* const q = device.Allocate<uint16_t>(kRows * shape.heads * shape.key());
  auto* const cache = device.Allocate<uint16_t>(cache_values);
  auto* const table = device.Allocate<int32_t>(table_size);
  auto* const lengths = device.Allocate<int32_t>(kRows);
  const size_t plan_bytes = DecodePlanBytes(shape, kRows, kTokensMax, kMultiprocessors);
  auto* const plan = device.Allocate<uint8_t>(plan_bytes);
  const size_t workspace_bytes = DecodeWorkspaceBytes(shape, kRows, kTokensMax, kMultiprocessors);
  auto* const out = device.Allocate<uint16_t>(kRows * shape.heads * shape.latent);
  BeginCapture(device.stream());
  MlaDecode({.shape = shape,
             .q = q,
             .cache = cache,
             .page_table = table,
             .page_table_stride = 7,
             .lengths = lengths,
             .rows = kRows,
             .out = out,
             .plan = plan,
             .workspace = device.Allocate<uint8_t>(workspace_bytes),
             .workspace_bytes = workspace_bytes,
             .multiprocessors = kMultiprocessors,
             .shared_bytes_max = std::min(kSharedH100, SharedBytesOfDevice())},
            device.stream());
  const ExecutableGraph graph = EndCapture(device.stream());
  for (const int which : {0, 1, 0}) {
    const Step& step = steps[which];
    ASSERT_EQ(step.stride, 7);
    ASSERT_LE(step.cache.size(), cache_values);
    const auto copy = [&](const std::vector<float>& values, uint16_t* to) {
      std::vector<uint16_t> halves(values.size());
      for (size_t i = 0; i < values.size(); ++i) halves[i] = F32ToBF16(values[i]);
      CopyToDevice(to, halves.data(), halves.size() * 2, device.stream());
      Synchronize(device.stream());
    };
    copy(step.q, q);
    copy(step.cache, cache);
    CopyToDevice(table, step.page_table.data(), step.page_table.size() * 4, device.stream());
    const DecodePlan made = PlanDecode(shape, step.lengths, kRows, kTokensMax, kMultiprocessors);
    ASSERT_LE(made.words_used * 4, static_cast<int64_t>(plan_bytes));
    CopyToDevice(plan, made.words.data(), made.words_used * 4, device.stream());
    FillBytes(out, 0xff, kRows * shape.heads * shape.latent * 2, device.stream());
    LaunchGraph(graph, device.stream());
    const auto halves = device.Download(out, kRows * shape.heads * shape.latent);
    const Result eager = RunOnce(step, {.rows_padding = kRows - step.rows()});
    for (size_t i = 0; i < halves.size(); ++i) ASSERT_EQ(BF16ToF32(halves[i]), eager.out[i]);
  }
}

// The merge alone, with maxima and sums that an attention rarely gives.
class Combine : public testing::Test {
 protected:
  static constexpr int64_t kHeads = 2, kLatent = 32;
  struct Part {
    float max, sum, value;  // value: of all columns, not yet divided by the sum
  };
  // {value of all columns, log-sum}.
  std::pair<float, float> Merge(const std::vector<Part>& parts) {
    const int64_t slot_floats = SlotFloats(kHeads, kLatent);
    std::vector<float> partial(parts.size() * slot_floats, kNan);
    for (size_t i = 0; i < parts.size(); ++i) {
      float* const slot = partial.data() + i * slot_floats;
      std::fill_n(slot, kHeads * kLatent, parts[i].value);
      std::fill_n(slot + kHeads * kLatent, kHeads, parts[i].max);
      std::fill_n(slot + kHeads * (kLatent + 1), kHeads, parts[i].sum);
    }
    std::vector<int32_t> plan(kPlanHeaderWords + 4, 0);
    plan[kPlanBlocks] = 1;
    plan[kPlanRows] = 1;
    plan[kPlanHeaderWords + 3] = static_cast<int32_t>(parts.size());
    DeviceForTest device;
    auto* const out = device.Allocate<uint16_t>(kHeads * kLatent);
    auto* const lse = device.Allocate<float>(kHeads);
    CombineMlaDecode({.shape = Shape(kHeads, kLatent, 16),
                      .rows = 1,
                      .out = out,
                      .lse = lse,
                      .plan = device.Upload(plan),
                      .workspace = device.Upload(partial)},
                     device.stream());
    const auto values = device.Download(out, kHeads * kLatent);
    const auto sums = device.Download(lse, kHeads);
    for (const uint16_t value : values) EXPECT_EQ(value, values[0]);
    EXPECT_EQ(std::memcmp(&sums[0], &sums[1], sizeof(float)), 0);
    return {BF16ToF32(values[0]), sums[0]};
  }
};
constexpr float kNone = -std::numeric_limits<float>::infinity();

TEST_F(Combine, WeighsPartsByTheirSums) {
  const auto [value, lse] = Merge({{0, 1, 3}, {1, 1, 6}});  // weights 1/3 and 2/3
  EXPECT_NEAR(value, 5.0f, 5.0f * 0x1p-8);
  EXPECT_NEAR(lse, std::log(3.0), 1e-6);
}
TEST_F(Combine, TheOrderOfMaximaDoesNotMatter) {
  EXPECT_EQ(Merge({{5, 2, 4}, {3, 4, 4}, {7, 1, 8}}), Merge({{7, 1, 8}, {5, 2, 4}, {3, 4, 4}}));
}
TEST_F(Combine, AllPartsWithoutKeysAreZeros) {
  EXPECT_EQ(Merge({{kNone, 0, kNan}, {kNone, kNan, 1}, {kNone, 0, 1}}),
            std::make_pair(0.0f, kNone));
}
TEST_F(Combine, APartWithoutKeysWeighsNothing) {
  const auto [value, lse] = Merge({{kNone, kNan, kNan}, {7, 1, 2}, {kNone, 0, kNan}});
  EXPECT_EQ(value, 2.0f);
  EXPECT_NEAR(lse, 7 * std::log(2.0), 1e-5);
}
TEST_F(Combine, MaximaFarApartAndFarFromZero) {
  EXPECT_EQ(Merge({{-900, 1, 1}, {900, 1, 2}}).first, 2.0f);
  EXPECT_EQ(Merge({{900, 1, 2}, {-900, 1, 1}}).first, 2.0f);
  EXPECT_EQ(Merge({{-3000, 1, 1}, {-3000, 1, 1}}).first, 1.0f);
  EXPECT_NEAR(Merge({{3000, 1, 1}, {3000, 1, 1}}).second, 3001 * std::log(2.0), 1e-3);
}
TEST_F(Combine, AsManyPartsAsThereMayBe) {
  std::vector<Part> parts(kPartsMax, {5, 1, 1});
  parts.back().value = 129;
  EXPECT_EQ(Merge(parts).first, 2.0f);
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda::decode_test
