// What tests of decode attention share, whichever kernel they ask for: steps with poison in
// everything that must not be read, one way to run them on the device, and float64 to compare with.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/device/device_test_support.h"
#include "gpu_worker/backend/cuda/kernels/attention/attention.h"
#include "gpu_worker/backend/cuda/kernels/attention/decode_plan.h"
#include "lib/base/check.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker::cuda::decode_test {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
// A page number that no cache has: reading it is a crash.
inline constexpr int32_t kNoPage = 2147480000;
inline constexpr size_t kSharedA100 = 163 << 10, kSharedH100 = 227 << 10;

// What the device has bounds what a test may ask for.
inline size_t SharedBytesOfDevice() {
  const auto device = UseDevice(0);
  TANDEM_CHECK(device.ok());
  return device->shared_bytes_max;
}

inline MlaShape Shape(int64_t heads, int64_t latent, int64_t rope) {
  return {.heads = heads,
          .latent = latent,
          .rope = rope,
          // Scores with a standard deviation of about 3: neither flat nor one-hot.
          .softmax_scale = 3.0f / std::sqrt(static_cast<float>(latent + rope))};
}

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

inline float Rounded(float value, Storage storage) {
  return storage == Storage::kBf16 ? BF16ToF32(F32ToBF16(value)) : value;
}

// Pages of all rows in a random order among spare ones.
inline Step MakeStep(const MlaShape& shape, Storage storage, std::vector<int32_t> lengths,
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

// Row `row` of `step` by itself, with the same cache.
inline Step Alone(const Step& step, int64_t row) {
  Step alone = step;
  const int64_t row_values = step.shape.heads * step.shape.key();
  alone.lengths = {step.lengths[row]};
  alone.q.assign(step.q.begin() + row * row_values, step.q.begin() + (row + 1) * row_values);
  alone.page_table.assign(step.page_table.begin() + row * step.stride,
                          step.page_table.begin() + (row + 1) * step.stride);
  return alone;
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

inline Result RunOnce(const Step& step, const Options& options = {}) {
  return Decoder(options).Run(step);
}

// Of one row and head in float64.
struct Exact {
  std::vector<double> mean;      // [latent]
  std::vector<double> absolute;  // [latent]: mean of |value|, what roundings of p can move
  double lse = -std::numeric_limits<double>::infinity();
};

inline Exact Attend(const Step& step, int64_t row, int64_t head) {
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
inline void ExpectExact(const Step& step, const Result& result) {
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
inline void ExpectSameRow(const MlaShape& shape, const Result& a, int64_t row, const Result& b,
                          int64_t other) {
  const auto same = [](const std::vector<float>& x, const std::vector<float>& y, int64_t size,
                       int64_t i, int64_t j) {
    return std::memcmp(x.data() + i * size, y.data() + j * size, size * sizeof(float)) == 0;
  };
  EXPECT_TRUE(same(a.out, b.out, shape.heads * shape.latent, row, other)) << row << " " << other;
  EXPECT_TRUE(same(a.lse, b.lse, shape.heads, row, other)) << row << " " << other;
}

}  // namespace tandem::gpu_worker::cuda::decode_test
