// Decode attention against float64, with poison in everything that must not be read.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <optional>
#include <random>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/device/device_test_support.h"
#include "gpu_worker/backend/cuda/kernels/attention/attention.h"
#include "gpu_worker/backend/cuda/kernels/attention/decode_kernels.h"
#include "gpu_worker/backend/cuda/kernels/attention/decode_plan.h"
#include "lib/base/check.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
// A page number that no cache has: reading it is a crash.
constexpr int32_t kNoPage = 2147480000;
constexpr size_t kSharedA100 = 163 << 10, kSharedH100 = 227 << 10;

// What the device has bounds what a test may ask for.
size_t SharedBytesOfDevice() {
  const auto device = UseDevice(0);
  TANDEM_CHECK(device.ok());
  return device->shared_bytes_max;
}

MlaShape Shape(int64_t heads, int64_t latent, int64_t rope) {
  return {.heads = heads,
          .latent = latent,
          .rope = rope,
          // Scores with a standard deviation of about 3: neither flat nor one-hot.
          .softmax_scale = 3.0f / std::sqrt(static_cast<float>(latent + rope))};
}
const MlaShape kReal = Shape(16, 512, 64);

// Inputs of a step in f32, rounded to bf16 where that is the storage.
struct Step {
  MlaShape shape;
  Storage storage = Storage::kBf16;
  std::vector<int32_t> lengths;
  std::vector<float> q;      // [rows, heads, key]
  std::vector<float> cache;  // [pages, kPageTokens, key]; NaN where no row has a key
  std::vector<int32_t> page_table;
  int64_t stride = 0;
  int64_t rows() const { return static_cast<int64_t>(lengths.size()); }
  int32_t longest() const {
    return lengths.empty() ? 0 : *std::max_element(lengths.begin(), lengths.end());
  }
};

float Rounded(float value, Storage storage) {
  return storage == Storage::kBf16 ? BF16ToF32(F32ToBF16(value)) : value;
}

// Pages of all rows in a random order among spare ones.
Step MakeStep(const MlaShape& shape, Storage storage, std::vector<int32_t> lengths,
              unsigned seed = 1) {
  Step step{shape, storage, std::move(lengths), {}, {}, {}, 0};
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  int64_t pages_all = 3;
  for (const int32_t length : step.lengths) pages_all += (length + 63) / 64;
  step.stride = (step.longest() + 63) / 64 + 2;
  step.q.resize(step.rows() * shape.heads * shape.key());
  for (float& v : step.q) v = Rounded(normal(random), storage);
  std::vector<int32_t> pages(pages_all);
  std::iota(pages.begin(), pages.end(), 0);
  std::shuffle(pages.begin(), pages.end(), random);
  step.cache.assign(pages_all * kPageTokens * shape.key(), kNan);
  step.page_table.assign(step.rows() * step.stride, kNoPage);
  for (int64_t row = 0; row < step.rows(); ++row) {
    for (int32_t token = 0; token < step.lengths[row]; ++token) {
      int32_t& page = step.page_table[row * step.stride + token / kPageTokens];
      if (page == kNoPage) page = pages.back(), pages.pop_back();
      float* const key =
          step.cache.data() + (page * kPageTokens + token % kPageTokens) * shape.key();
      for (int64_t c = 0; c < shape.key(); ++c) key[c] = Rounded(normal(random), storage);
    }
  }
  return step;
}

struct Options {
  Kernels kernels = Kernels::kPortable;
  int multiprocessors = 3;
  size_t shared_bytes_max = kSharedH100;
  int64_t rows_padding = 0;  // rows_max beyond the rows, also launched
};

struct Result {
  std::vector<float> out;  // [rows + padding, heads, latent]
  std::vector<float> lse;  // [rows + padding, heads]
};

// One step on the device. `workspace`: memory that an earlier step left; null: fresh, NaN.
class Decoder {
 public:
  explicit Decoder(const Options& options) : options_(options) {}

  Result Run(const Step& step) {
    const int64_t rows = step.rows() + options_.rows_padding, heads = step.shape.heads;
    std::vector<int32_t> lengths = step.lengths;
    lengths.resize(rows, 0);
    std::vector<int32_t> table = step.page_table;
    table.resize(rows * step.stride, kNoPage);
    std::vector<float> q = step.q;
    q.resize(rows * heads * step.shape.key(), kNan);
    const DecodePlan plan =
        PlanDecode(step.shape, step.lengths, rows, step.longest(), options_.multiprocessors);
    const size_t workspace_bytes =
        DecodeWorkspaceBytes(step.shape, rows, step.longest(), options_.multiprocessors);
    if (workspace_.size() * sizeof(float) < workspace_bytes) {
      workspace_ = std::span(device_.Allocate<float>(workspace_bytes / sizeof(float)),
                             workspace_bytes / sizeof(float));
    }
    const bool bf16 = step.storage == Storage::kBf16;
    const int64_t out_values = rows * heads * step.shape.latent;
    void* const out = device_.Allocate<uint8_t>(out_values * (bf16 ? 2 : 4));
    float* const lse = device_.Allocate<float>(rows * heads);
    MlaDecode({.kernels = options_.kernels,
               .storage = step.storage,
               .shape = step.shape,
               .q = Upload(q, bf16),
               .cache = Upload(step.cache, bf16),
               .page_table = device_.Upload(table),
               .page_table_stride = step.stride,
               .lengths = device_.Upload(lengths),
               .rows = rows,
               .out = out,
               .lse = lse,
               .plan = device_.Upload(plan.words),
               .workspace = workspace_.data(),
               .workspace_bytes = workspace_bytes,
               .multiprocessors = options_.multiprocessors,
               .shared_bytes_max = std::min(options_.shared_bytes_max, SharedBytesOfDevice())},
              device_.stream());
    return {Download(out, out_values, bf16), device_.Download(lse, rows * heads)};
  }

 private:
  const void* Upload(const std::vector<float>& values, bool bf16) {
    if (!bf16) return device_.Upload(values);
    std::vector<uint16_t> halves(values.size());
    for (size_t i = 0; i < values.size(); ++i) halves[i] = F32ToBF16(values[i]);
    return device_.Upload(halves);
  }
  std::vector<float> Download(const void* from, int64_t count, bool bf16) {
    if (!bf16) return device_.Download(static_cast<const float*>(from), count);
    const auto halves = device_.Download(static_cast<const uint16_t*>(from), count);
    std::vector<float> values(count);
    for (int64_t i = 0; i < count; ++i) values[i] = BF16ToF32(halves[i]);
    return values;
  }

  Options options_;
  DeviceForTest device_;
  std::span<float> workspace_;
};

Result RunOnce(const Step& step, const Options& options = {}) { return Decoder(options).Run(step); }

// Of one row and head in float64.
struct Exact {
  std::vector<double> mean;      // [latent]
  std::vector<double> absolute;  // [latent]: mean of |value|, what roundings of p can move
  double lse = -std::numeric_limits<double>::infinity();
};

Exact Attend(const Step& step, int64_t row, int64_t head) {
  const int64_t key = step.shape.key();
  const float* const q = step.q.data() + (row * step.shape.heads + head) * key;
  std::vector<const float*> keys;
  std::vector<double> scores;
  for (int32_t token = 0; token < step.lengths[row]; ++token) {
    const int64_t page = step.page_table[row * step.stride + token / kPageTokens];
    keys.push_back(step.cache.data() + (page * kPageTokens + token % kPageTokens) * key);
    double score = 0;
    for (int64_t c = 0; c < key; ++c) score += double{q[c]} * keys.back()[c];
    scores.push_back(score * step.shape.softmax_scale);
  }
  Exact exact{std::vector<double>(step.shape.latent), std::vector<double>(step.shape.latent)};
  if (keys.empty()) return exact;
  const double max = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (const double score : scores) sum += std::exp(score - max);
  exact.lse = max + std::log(sum);
  for (size_t j = 0; j < keys.size(); ++j) {
    const double p = std::exp(scores[j] - exact.lse);
    for (int64_t c = 0; c < step.shape.latent; ++c) {
      exact.mean[c] += p * keys[j][c];
      exact.absolute[c] += p * std::abs(keys[j][c]);
    }
  }
  return exact;
}

// Roundings: the result to bf16 and each p to bf16, 2^-8 of their size each; scores and sums in
// f32, for which 2^-12 of |values| is ample (scores of size 12 with 576 products: a relative error
// of p of 12 * 2^-24 * sqrt(576) = 2^-16).
void ExpectExact(const Step& step, const Result& result) {
  const bool bf16 = step.storage == Storage::kBf16;
  const double result_error = bf16 ? 0x1p-8 : 0x1p-24, p_error = bf16 ? 0x1p-8 : 0.0;
  double dot = 0, found_2 = 0, exact_2 = 0, difference_2 = 0;
  for (int64_t pair = 0; pair < step.rows() * step.shape.heads; ++pair) {
    const Exact exact = Attend(step, pair / step.shape.heads, pair % step.shape.heads);
    if (std::isinf(exact.lse)) {
      EXPECT_EQ(result.lse[pair], -std::numeric_limits<float>::infinity());
    } else {
      ASSERT_NEAR(result.lse[pair], exact.lse, 1e-4 * std::max(1.0, std::abs(exact.lse))) << pair;
    }
    for (int64_t c = 0; c < step.shape.latent; ++c) {
      const double found = result.out[pair * step.shape.latent + c], expected = exact.mean[c];
      ASSERT_NEAR(found, expected,
                  result_error * std::abs(expected) +
                      (p_error + 0x1p-12 * (bf16 ? 1 : 0x1p-4)) * exact.absolute[c])
          << "pair " << pair << " column " << c;
      dot += found * expected;
      found_2 += found * found;
      exact_2 += expected * expected;
      difference_2 += (found - expected) * (found - expected);
    }
  }
  if (exact_2 == 0) return;
  EXPECT_LT(1 - 2 * dot / (found_2 + exact_2), bf16 ? 5e-6 : 1e-10);
  EXPECT_LT(std::sqrt(difference_2 / exact_2), bf16 ? 4e-3 : 1e-5);
}

// Row `row` of `a` has the bits of row `other` of `b`.
void ExpectSameRow(const MlaShape& shape, const Result& a, int64_t row, const Result& b,
                   int64_t other) {
  const auto same = [](const std::vector<float>& x, const std::vector<float>& y, int64_t size,
                       int64_t i, int64_t j) {
    return std::memcmp(x.data() + i * size, y.data() + j * size, size * sizeof(float)) == 0;
  };
  EXPECT_TRUE(same(a.out, b.out, shape.heads * shape.latent, row, other)) << row << " " << other;
  EXPECT_TRUE(same(a.lse, b.lse, shape.heads, row, other)) << row << " " << other;
}

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
    Step alone = step;
    const int64_t row_values = shape.heads * shape.key();
    alone.lengths = {step.lengths[row]};
    alone.q.assign(step.q.begin() + row * row_values, step.q.begin() + (row + 1) * row_values);
    alone.page_table.assign(step.page_table.begin() + row * step.stride,
                            step.page_table.begin() + (row + 1) * step.stride);
    ExpectSameRow(shape, RunOnce(alone, Using()), 0, together, row);
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
}  // namespace tandem::gpu_worker::cuda
