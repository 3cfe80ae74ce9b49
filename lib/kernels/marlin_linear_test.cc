#include "lib/kernels/marlin_linear.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "lib/base/thread_pool.h"
#include "lib/kernels/kernel_table.h"
#include "lib/kernels/marlin_pack.h"
#include "lib/tensor/codec.h"

namespace tandem::kernels {
namespace {

constexpr MarlinForm kForms[] = {{4, 128}, {4, 64}, {8, 128}, {8, 64}};

struct Problem {
  MarlinForm form;
  int64_t rows, cols, outs;
  std::vector<uint16_t> x;  // [rows, cols]
  std::vector<float> w;     // [outs, cols]
  std::vector<uint8_t> codes, stored;
  std::vector<uint16_t> scales;
};

using Values = std::function<float(std::mt19937_64&)>;

float Normal(std::mt19937_64& random) { return std::normal_distribution<float>()(random); }
float WithOutliers(std::mt19937_64& random) {
  return Normal(random) * (random() % 100 == 0 ? 1000.0f : 1.0f);
}
float AnyMagnitude(std::mt19937_64& random) {
  return std::ldexp(Normal(random), static_cast<int>(random() % 120) - 60);
}
float MostlyZero(std::mt19937_64& random) { return random() % 300 == 0 ? Normal(random) : 0.0f; }
float Zero(std::mt19937_64&) { return 0.0f; }

Problem MakeProblem(MarlinForm form, int64_t rows, int64_t cols, int64_t outs, uint64_t seed,
                    const Values& weights = Normal) {
  std::mt19937_64 random(seed);
  Problem p{form, rows, cols, outs, {}, {}, {}, {}, {}};
  for (int64_t i = 0; i < rows * cols; ++i) p.x.push_back(F32ToBF16(Normal(random)));
  for (int64_t i = 0; i < outs * cols; ++i) p.w.push_back(weights(random));
  p.codes.resize(outs * cols);
  p.stored.resize(outs * form.RowBytes(cols));
  p.scales.resize(outs * form.Groups(cols));
  for (int64_t n = 0; n < outs; ++n) {
    QuantizeMarlinRow(form, &p.w[n * cols], cols, &p.codes[n * cols],
                      &p.scales[n * form.Groups(cols)]);
    StoreMarlinRow(form, &p.codes[n * cols], cols, &p.stored[n * form.RowBytes(cols)]);
  }
  return p;
}

// The bf16 weights that the codes mean, [outs, cols].
std::vector<uint16_t> Weights(const Problem& p) {
  std::vector<uint16_t> weights;
  for (int64_t n = 0; n < p.outs; ++n) {
    for (int64_t k = 0; k < p.cols; ++k) {
      weights.push_back(MarlinWeight(p.form, p.codes[n * p.cols + k],
                                     p.scales[n * p.form.Groups(p.cols) + k / p.form.group]));
    }
  }
  return weights;
}

std::vector<float> Multiply(const KernelTable& table, const Problem& p, int64_t rows, int64_t begin,
                            int64_t end) {
  std::vector<float> y(p.rows * p.outs, std::nanf(""));
  std::vector<float> scratch(BlockLinearScratchFloats(p.cols), std::nanf(""));
  const MarlinLinearArgs args{.form = p.form,
                              .x = p.x.data(),
                              .x_stride = p.cols,
                              .w = p.stored.data(),
                              .w_scales = p.scales.data(),
                              .y = y.data(),
                              .y_stride = p.outs,
                              .rows = rows,
                              .cols = p.cols,
                              .n_begin = begin,
                              .n_end = end};
  table.linear_marlin(args, scratch.data());
  return y;
}

std::vector<float> RunBf16(const Problem& p) {
  const std::vector<uint16_t> w = Weights(p);
  std::vector<float> y(p.rows * p.outs);
  LinearBf16({.x = p.x.data(),
              .x_stride = p.cols,
              .w = w.data(),
              .y = y.data(),
              .y_stride = p.outs,
              .rows = p.rows,
              .cols = p.cols,
              .n_begin = 0,
              .n_end = p.outs});
  return y;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b, int64_t n) {
  return std::memcmp(a.data(), b.data(), n * sizeof(float)) == 0;
}

struct Case {
  const char* name;
  Values weights;
};
const Case kCases[] = {{"normal", Normal},
                       {"outliers", WithOutliers},
                       {"any magnitude", AnyMagnitude},
                       {"mostly zero", MostlyZero},
                       {"zero", Zero}};

TEST(MarlinLinear, EveryTableGivesTheBitsOfBf16OnTheWeights) {
  for (const MarlinForm& form : kForms) {
    for (int64_t cols : {1, 16, 31, 64, 100, 128, 129, 192, 391}) {
      for (const Case& c : kCases) {
        const Problem p = MakeProblem(form, 8, cols, 70, cols, c.weights);
        const std::vector<float> want = RunBf16(p);
        for (const KernelTable* table : SupportedTables()) {
          ASSERT_TRUE(SameBits(Multiply(*table, p, p.rows, 0, p.outs), want, p.rows * p.outs))
              << table->isa << " int" << form.bits << " group " << form.group << " " << c.name
              << " cols " << cols;
        }
      }
    }
  }
}

// Against float64 on the dequantized weights: a lane adds cols / 16 terms, the tree 4 more, each
// rounding by at most 2^-24 of the magnitudes.
TEST(MarlinLinear, IsCloseToDoubleOnTheDequantizedWeights) {
  for (const MarlinForm& form : kForms) {
    for (const Case& c : kCases) {
      const Problem p = MakeProblem(form, 4, 1000, 66, 3, c.weights);
      const std::vector<uint16_t> w = Weights(p);
      const std::vector<float> y = Multiply(*SupportedTables().back(), p, p.rows, 0, p.outs);
      for (int64_t r = 0; r < p.rows; ++r) {
        for (int64_t n = 0; n < p.outs; ++n) {
          double sum = 0, magnitude = 0;
          for (int64_t k = 0; k < p.cols; ++k) {
            const double term =
                static_cast<double>(BF16ToF32(p.x[r * p.cols + k])) * BF16ToF32(w[n * p.cols + k]);
            sum += term;
            magnitude += std::abs(term);
          }
          const double bound = (std::ceil(p.cols / 16.0) + 4) * std::exp2(-24) * magnitude;
          ASSERT_NEAR(y[r * p.outs + n], sum, bound) << c.name << " " << r << " " << n;
        }
      }
    }
  }
}

// Half a step of rounding to the nearest code, one more half where the largest magnitude is clamped
// (it lies (2^bits - 1) / 2 steps out), 2^-8 of the weight for the rounded scale, which also moves
// that limit, and 2^-9 for the rounded product.
TEST(MarlinLinear, QuantizationErrorIsThatOfTheFormat) {
  for (const MarlinForm& form : kForms) {
    for (const Case& c : kCases) {
      const Problem p = MakeProblem(form, 1, 300, 20, 4, c.weights);
      const std::vector<uint16_t> w = Weights(p);
      for (int64_t i = 0; i < p.outs * p.cols; ++i) {
        const float scale =
            BF16ToF32(p.scales[i / p.cols * form.Groups(p.cols) + i % p.cols / form.group]);
        const double allowed = scale * (p.w[i] > scale * ((1 << form.bits) / 2 - 1) ? 1.0 : 0.5) +
                               std::abs(p.w[i]) * std::exp2(-7) + std::exp2(-133);
        ASSERT_LE(std::abs(static_cast<double>(BF16ToF32(w[i])) - p.w[i]), allowed)
            << "int" << form.bits << " " << c.name << " " << p.w[i] << " scale " << scale;
      }
    }
  }
}

TEST(MarlinLinear, RowBitsDoNotDependOnRowsRangesOrThreads) {
  for (const KernelTable* table : SupportedTables()) {
    const bool scalar = std::string(table->isa) == "scalar";
    for (const MarlinForm& form : {kForms[0], kForms[3]}) {
      const Problem p = MakeProblem(form, 65, scalar ? 40 : 300, scalar ? 9 : 150, 7);
      const std::vector<float> want = Multiply(*table, p, p.rows, 0, p.outs);
      for (int threads : {1, 2}) {
        base::ThreadPool pool(threads);
        for (int64_t rows = 1; rows <= p.rows; ++rows) {
          std::vector<float> y(p.rows * p.outs, std::nanf(""));
          pool.ParallelFor(p.outs, 5, [&](int64_t begin, int64_t end) {
            const std::vector<float> part = Multiply(*table, p, rows, begin, end);
            for (int64_t r = 0; r < rows; ++r) {
              std::copy(&part[r * p.outs + begin], &part[r * p.outs + end], &y[r * p.outs + begin]);
            }
          });
          ASSERT_TRUE(SameBits(y, want, rows * p.outs))
              << table->isa << " rows " << rows << " threads " << threads;
          if (rows < p.rows) ASSERT_TRUE(std::isnan(y[rows * p.outs])) << "wrote past the end";
        }
      }
    }
  }
}

TEST(MarlinLinear, StoredRowsKeepTheirCodes) {
  for (const MarlinForm& form : kForms) {
    for (int64_t cols : {1, 31, 32, 33, 100, 128}) {
      const Problem p = MakeProblem(form, 1, cols, 3, cols);
      std::vector<uint8_t> codes(cols);
      for (int64_t n = 0; n < p.outs; ++n) {
        LoadMarlinRow(form, &p.stored[n * form.RowBytes(cols)], cols, codes.data());
        EXPECT_EQ(std::memcmp(codes.data(), &p.codes[n * cols], cols), 0);
      }
    }
  }
}

TEST(MarlinPack, UnpackingGivesCodesAndScalesBack) {
  for (const MarlinForm& form : kForms) {
    for (const auto& [outs, cols] : {std::pair<int64_t, int64_t>{64, 128}, {70, 100}, {576, 256}}) {
      const Problem p = MakeProblem(form, 1, cols, outs, outs);
      const MarlinPacked packed = PackMarlin(form, p.codes, p.scales, outs, cols);
      EXPECT_EQ(packed.n_padded % 64, 0);
      EXPECT_EQ(packed.k_padded % 128, 0);
      std::vector<uint8_t> codes;
      std::vector<uint16_t> scales;
      UnpackMarlin(packed, outs, cols, &codes, &scales);
      EXPECT_EQ(codes, p.codes);
      EXPECT_EQ(scales, p.scales);
    }
  }
}

// Every place is used once, and none lies outside.
TEST(MarlinPack, PlacesAreAPermutation) {
  for (const int bits : {4, 8}) {
    constexpr int64_t kK = 128, kN = 192;
    std::set<std::pair<int64_t, int>> places;
    for (int64_t k = 0; k < kK; ++k) {
      for (int64_t n = 0; n < kN; ++n) {
        const MarlinPlace place = MarlinCodePlace(bits, k, n, kN);
        ASSERT_GE(place.word, 0);
        ASSERT_LT(place.word, kK * kN * bits / 32);
        ASSERT_EQ(place.shift % bits, 0);
        ASSERT_LT(place.shift, 32);
        places.insert({place.word, place.shift});
      }
    }
    EXPECT_EQ(static_cast<int64_t>(places.size()), kK * kN);
  }
  for (const int64_t groups : {1, 2}) {
    std::set<int64_t> places;
    for (int64_t n = 0; n < 192; ++n) places.insert(MarlinScalePlace(groups, n));
    EXPECT_EQ(places.size(), 192u);
    EXPECT_EQ(*places.rbegin(), 191);
  }
}

TEST(MarlinPack, PaddingMeansZero) {
  const Problem p = MakeProblem({4, 64}, 1, 100, 3, 1);
  const MarlinPacked packed = PackMarlin(p.form, p.codes, p.scales, 3, 100);
  std::vector<uint8_t> codes;
  std::vector<uint16_t> scales;
  UnpackMarlin(packed, 64, 128, &codes, &scales);
  for (int64_t n = 0; n < 64; ++n) {
    for (int64_t k = 0; k < 128; ++k) {
      if (n >= 3 || k >= 100) ASSERT_EQ(codes[n * 128 + k], 8);
    }
    if (n >= 3) EXPECT_EQ(scales[n * 2], 0);
  }
}

TEST(MarlinLinear, PublicFunctionUsesTheActiveTable) {
  const Problem p = MakeProblem({4, 64}, 2, 200, 5, 8);
  std::vector<float> y(p.rows * p.outs);
  LinearMarlin({.form = p.form,
                .x = p.x.data(),
                .x_stride = p.cols,
                .w = p.stored.data(),
                .w_scales = p.scales.data(),
                .y = y.data(),
                .y_stride = p.outs,
                .rows = p.rows,
                .cols = p.cols,
                .n_begin = 0,
                .n_end = p.outs});
  EXPECT_EQ(y, Multiply(ActiveTable(), p, p.rows, 0, p.outs));
}

}  // namespace
}  // namespace tandem::kernels
