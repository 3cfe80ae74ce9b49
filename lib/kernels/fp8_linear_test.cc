#include "lib/kernels/fp8_linear.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "lib/base/thread_pool.h"
#include "lib/kernels/kernel_table.h"
#include "lib/tensor/codec.h"

namespace tandem::kernels {
namespace {

struct Problem {
  int64_t rows, cols, outs;
  std::vector<float> x;        // [rows, cols], bf16 numbers
  std::vector<uint8_t> codes;  // [outs, Fp8RowBytes(cols)]
  std::vector<float> scales;   // [blocks of outs, blocks of cols]
};

using Values = std::function<float(std::mt19937_64&)>;

float Normal(std::mt19937_64& random) { return std::normal_distribution<float>()(random); }

// One value in a hundred is a thousand times as large.
float WithOutliers(std::mt19937_64& random) {
  return Normal(random) * (random() % 100 == 0 ? 1000.0f : 1.0f);
}

// All magnitudes f32 has room for, in one block.
float AnyMagnitude(std::mt19937_64& random) {
  return std::ldexp(Normal(random), static_cast<int>(random() % 120) - 60);
}

float MostlyZero(std::mt19937_64& random) { return random() % 300 == 0 ? Normal(random) : 0.0f; }

float Zero(std::mt19937_64&) { return 0.0f; }

Problem MakeProblem(int64_t rows, int64_t cols, int64_t outs, uint64_t seed,
                    const Values& inputs = Normal, const Values& weights = Normal) {
  std::mt19937_64 random(seed);
  Problem p{rows, cols, outs, {}, {}, {}};
  for (int64_t i = 0; i < rows * cols; ++i) p.x.push_back(BF16ToF32(F32ToBF16(inputs(random))));
  std::vector<float> w;
  for (int64_t i = 0; i < outs * cols; ++i) w.push_back(weights(random));
  p.codes.resize(outs * Fp8RowBytes(cols));
  p.scales.resize(Fp8Blocks(outs) * Fp8Blocks(cols));
  for (int64_t n = 0; n < outs; n += kFp8Block) {
    QuantizeFp8Weights(&w[n * cols], std::min(kFp8Block, outs - n), cols,
                       &p.codes[n * Fp8RowBytes(cols)], &p.scales[n / kFp8Block * Fp8Blocks(cols)]);
  }
  return p;
}

struct Inputs {
  std::vector<uint16_t> numbers;
  std::vector<float> scales;
};

Inputs Quantize(const KernelTable& table, const Problem& p) {
  Inputs in;
  in.numbers.resize(p.rows * p.cols);
  in.scales.resize(p.rows * Fp8Blocks(p.cols));
  for (int64_t r = 0; r < p.rows; ++r) {
    table.quantize_fp8(&p.x[r * p.cols], p.cols, &in.numbers[r * p.cols],
                       &in.scales[r * Fp8Blocks(p.cols)]);
  }
  return in;
}

std::vector<float> Multiply(const KernelTable& table, const Problem& p, const Inputs& in,
                            int64_t rows, int64_t begin, int64_t end) {
  std::vector<float> y(p.rows * p.outs, std::nanf(""));
  std::vector<float> scratch(BlockLinearScratchFloats(p.cols), std::nanf(""));
  const Fp8LinearArgs args{.x = in.numbers.data(),
                           .x_stride = p.cols,
                           .x_scales = in.scales.data(),
                           .w = p.codes.data(),
                           .w_scales = p.scales.data(),
                           .y = y.data(),
                           .y_stride = p.outs,
                           .rows = rows,
                           .cols = p.cols,
                           .n_begin = begin,
                           .n_end = end};
  table.linear_fp8(args, scratch.data());
  return y;
}

std::vector<float> Multiply(const KernelTable& table, const Problem& p) {
  return Multiply(table, p, Quantize(table, p), p.rows, 0, p.outs);
}

// The definition in the header, word for word.
float Definition(const Problem& p, int64_t r, int64_t n) {
  const int64_t blocks = Fp8Blocks(p.cols);
  float total[16] = {};
  for (int64_t b = 0; b < blocks; ++b) {
    const int64_t begin = b * kFp8Block, end = std::min(begin + kFp8Block, p.cols);
    float largest = 0;
    for (int64_t k = begin; k < end; ++k)
      largest = std::max(largest, std::abs(p.x[r * p.cols + k]));
    float scale = largest / 448.0f;
    if (scale < std::numeric_limits<float>::min()) scale = 0;
    float part[16] = {};
    for (int64_t k = begin; k < begin + kFp8Block; ++k) {
      const float x =
          k < end && scale > 0 ? F8E4M3ToF32(F32ToF8E4M3(p.x[r * p.cols + k] / scale)) : 0;
      const float w = k < end ? F8E4M3ToF32(p.codes[n * Fp8RowBytes(p.cols) + k]) : 0;
      part[k % 16] += x * w;
    }
    const float both = scale * p.scales[n / kFp8Block * blocks + b];
    for (int l = 0; l < 16; ++l) total[l] = std::fma(part[l], both, total[l]);
  }
  for (int width = 8; width >= 1; width /= 2) {
    for (int l = 0; l < width; ++l) total[l] += total[l + width];
  }
  return total[0];
}

struct Case {
  const char* name;
  Values inputs, weights;
};
const Case kCases[] = {{"normal", Normal, Normal},
                       {"outliers in x", WithOutliers, Normal},
                       {"outliers in w", Normal, WithOutliers},
                       {"any magnitude", AnyMagnitude, AnyMagnitude},
                       {"mostly zero", MostlyZero, MostlyZero},
                       {"zero x", Zero, Normal},
                       {"zero w", Normal, Zero}};

bool SameBits(const std::vector<float>& a, const std::vector<float>& b, int64_t n) {
  return std::memcmp(a.data(), b.data(), n * sizeof(float)) == 0;
}

TEST(Fp8Linear, EveryTableMatchesTheDefinitionBitForBit) {
  for (int64_t cols : {1, 15, 16, 31, 32, 33, 128, 129, 200, 256, 391}) {
    for (const Case& c : kCases) {
      const Problem p = MakeProblem(8, cols, 133, cols, c.inputs, c.weights);
      std::vector<float> want;
      for (int64_t r = 0; r < p.rows; ++r) {
        for (int64_t n = 0; n < p.outs; ++n) want.push_back(Definition(p, r, n));
      }
      for (const KernelTable* table : SupportedTables()) {
        ASSERT_TRUE(SameBits(Multiply(*table, p), want, p.rows * p.outs))
            << table->isa << " " << c.name << " cols " << cols;
      }
    }
  }
}

// Against float64 on the dequantized numbers. Per block a lane adds 8 products and total 1 more;
// the product of the scales rounds once, the promotions of a lane once a block and the tree 4
// times: each by at most 2^-24 of the magnitudes added so far. Terms below f32's normal numbers
// round by at most 2^-149 each.
TEST(Fp8Linear, IsCloseToDoubleOnTheDequantizedNumbers) {
  for (const Case& c : kCases) {
    const Problem p = MakeProblem(5, 1000, 140, 3, c.inputs, c.weights);
    const int64_t blocks = Fp8Blocks(p.cols);
    const KernelTable& table = *SupportedTables().back();
    const Inputs in = Quantize(table, p);
    const std::vector<float> y = Multiply(table, p);
    for (int64_t r = 0; r < p.rows; ++r) {
      for (int64_t n = 0; n < p.outs; ++n) {
        double sum = 0, magnitude = 0;
        for (int64_t k = 0; k < p.cols; ++k) {
          const double x = static_cast<double>(BF16ToF32(in.numbers[r * p.cols + k])) *
                           in.scales[r * blocks + k / kFp8Block];
          const double w = static_cast<double>(F8E4M3ToF32(p.codes[n * Fp8RowBytes(p.cols) + k])) *
                           p.scales[n / kFp8Block * blocks + k / kFp8Block];
          sum += x * w;
          magnitude += std::abs(x * w);
        }
        const double roundings = 8 + 1 + static_cast<double>(blocks) + 4;
        const double bound = roundings * std::exp2(-24) * magnitude +
                             static_cast<double>(16 * blocks + 16) * std::exp2(-149);
        ASSERT_NEAR(y[r * p.outs + n], sum, bound) << c.name << " " << r << " " << n;
      }
    }
  }
}

// What quantizing itself costs: a number is off by at most 2^-4 of itself, or half of 2^-9 steps of
// its block's scale.
TEST(Fp8Linear, QuantizationErrorIsThatOfTheFormat) {
  const Problem p = MakeProblem(3, 300, 1, 5, WithOutliers);
  const Inputs in = Quantize(*SupportedTables().back(), p);
  for (int64_t i = 0; i < p.rows * p.cols; ++i) {
    const float scale = in.scales[i / p.cols * Fp8Blocks(p.cols) + i % p.cols / kFp8Block];
    const double error = std::abs(static_cast<double>(BF16ToF32(in.numbers[i])) * scale - p.x[i]);
    ASSERT_LE(error, std::max(std::abs(p.x[i]) / 16.0 * 1.0001, scale * std::exp2(-10) * 1.0001));
  }
}

TEST(Fp8Linear, RowBitsDoNotDependOnRowsRangesOrThreads) {
  for (const KernelTable* table : SupportedTables()) {
    const bool scalar = std::string(table->isa) == "scalar";
    const Problem p = MakeProblem(65, scalar ? 40 : 300, scalar ? 9 : 150, 7);
    const Inputs in = Quantize(*table, p);
    const std::vector<float> want = Multiply(*table, p);
    for (int threads : {1, 2}) {
      base::ThreadPool pool(threads);
      for (int64_t rows = 1; rows <= p.rows; ++rows) {
        std::vector<float> y(p.rows * p.outs, std::nanf(""));
        pool.ParallelFor(p.outs, 5, [&](int64_t begin, int64_t end) {
          const std::vector<float> part = Multiply(*table, p, in, rows, begin, end);
          for (int64_t r = 0; r < rows; ++r) {
            std::copy(&part[r * p.outs + begin], &part[r * p.outs + end], &y[r * p.outs + begin]);
          }
        });
        ASSERT_TRUE(SameBits(y, want, rows * p.outs))
            << table->isa << " rows " << rows << " threads " << threads;
        if (rows < p.rows) ASSERT_TRUE(std::isnan(y[rows * p.outs])) << "wrote past the last row";
      }
    }
  }
}

// All bf16 numbers and 40,000 random f32: inputs are rounded as the codec rounds.
TEST(Fp8Linear, InputsAreRoundedAsTheCodecDoes) {
  std::vector<float> values;
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = BF16ToF32(static_cast<uint16_t>(bits));
    if (std::isfinite(value) && std::abs(value) <= 448.0f) values.push_back(value);
  }
  std::mt19937_64 random(9);
  for (int i = 0; i < 40000; ++i) {
    values.push_back(std::ldexp(Normal(random), static_cast<int>(random() % 24) - 17));
    if (std::abs(values.back()) > 448.0f) values.pop_back();
  }
  for (const KernelTable* table : SupportedTables()) {
    for (size_t i = 0; i < values.size(); i += 127) {
      // The 128th is the largest, so that the scale is one.
      std::vector<float> run(values.begin() + i, values.begin() + std::min(i + 127, values.size()));
      run.push_back(448.0f);
      std::vector<uint16_t> numbers(run.size());
      float scale = 0;
      table->quantize_fp8(run.data(), run.size(), numbers.data(), &scale);
      ASSERT_EQ(scale, 1.0f);
      for (size_t k = 0; k < run.size(); ++k) {
        ASSERT_EQ(numbers[k], F32ToBF16(F8E4M3ToF32(F32ToF8E4M3(run[k]))))
            << table->isa << " " << run[k];
      }
    }
  }
}

// Every code but NaN is decoded exactly.
TEST(Fp8Linear, DecodesEveryCode) {
  Problem p = MakeProblem(1, 256, 2, 1);
  p.scales.assign(2, 1.0f);
  for (int64_t i = 0; i < 256; ++i) {
    p.codes[i] = p.codes[256 + i] = (i & 127) == 127 ? 0 : static_cast<uint8_t>(i);
  }
  Inputs in{std::vector<uint16_t>(256), {1.0f, 1.0f}};
  for (const KernelTable* table : SupportedTables()) {
    for (int64_t i = 0; i < 256; ++i) {
      in.numbers.assign(256, 0);
      in.numbers[i] = F32ToBF16(1.0f);
      ASSERT_EQ(Multiply(*table, p, in, 1, 0, 2)[1], F8E4M3ToF32(p.codes[i]))
          << table->isa << " " << i;
    }
  }
}

TEST(Fp8Linear, WhatIsNotFiniteSpoilsItsRowAlone) {
  for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    Problem p = MakeProblem(3, 200, 4, 2);
    const std::vector<float> want = Multiply(*SupportedTables().front(), p);
    p.x[1 * p.cols + 130] = bad;
    for (const KernelTable* table : SupportedTables()) {
      const std::vector<float> y = Multiply(*table, p);
      for (int64_t n = 0; n < p.outs; ++n) {
        EXPECT_EQ(y[n], want[n]);
        EXPECT_TRUE(std::isnan(y[p.outs + n])) << table->isa;
        EXPECT_EQ(y[2 * p.outs + n], want[2 * p.outs + n]);
      }
    }
  }
}

TEST(Fp8Linear, TinyRunsBecomeZeros) {
  Problem p = MakeProblem(1, 128, 1, 2);
  p.x.assign(128, 0x1p-126f);
  const Inputs in = Quantize(*SupportedTables().back(), p);
  EXPECT_EQ(in.scales[0], 0.0f);
  EXPECT_EQ(in.numbers[0], 0);
  EXPECT_EQ(Multiply(*SupportedTables().back(), p)[0], 0.0f);
}

TEST(Fp8Linear, PublicFunctionsUseTheActiveTable) {
  const Problem p = MakeProblem(2, 300, 3, 8);
  const Inputs want = Quantize(ActiveTable(), p);
  Inputs in = want;
  QuantizeFp8Inputs(p.x.data(), p.cols, in.numbers.data(), in.scales.data());
  EXPECT_EQ(in.numbers, want.numbers);
  std::vector<float> y(p.rows * p.outs);
  LinearFp8({.x = in.numbers.data(),
             .x_stride = p.cols,
             .x_scales = in.scales.data(),
             .w = p.codes.data(),
             .w_scales = p.scales.data(),
             .y = y.data(),
             .y_stride = p.outs,
             .rows = p.rows,
             .cols = p.cols,
             .n_begin = 0,
             .n_end = p.outs});
  EXPECT_EQ(y, Multiply(ActiveTable(), p));
}

}  // namespace
}  // namespace tandem::kernels
