#include "lib/kernels/quant.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "lib/kernels/expert_grid.h"
#include "lib/kernels/kernel_table.h"
#include "lib/kernels/random_blocks.h"
#include "lib/kernels/weights.h"
#include "lib/tensor/codec.h"

namespace tandem::kernels {
namespace {

std::vector<DType> QuantizedTypes() {
  std::vector<DType> types;
  for (int i = 0; i < static_cast<int>(DType::kCount); ++i) {
    if (IsIntegerForm(static_cast<DType>(i))) types.push_back(static_cast<DType>(i));
  }
  return types;
}

// Owns the arrays of rows of unpacked weights or quantized activations.
struct Rows {
  Rows(int64_t rows, int64_t cols)
      : padded(PaddedCodes(cols)),
        codes(rows * padded, 99),
        scales(rows * padded / 16, NAN),
        extra(rows * padded / 16, NAN) {
    for (int64_t r = 0; r < rows; ++r) {
      float* s = scales.data() + r * padded / 16;
      float* e = extra.data() + r * padded / 16;
      weights.push_back({codes.data() + r * padded, s, e});
      activations.push_back({codes.data() + r * padded, s, e});
    }
  }
  int64_t padded;
  std::vector<int8_t> codes;
  std::vector<float> scales, extra;
  std::vector<UnpackedRow> weights;
  std::vector<QuantRow> activations;
};

uint32_t BitsOf(float value) { return std::bit_cast<uint32_t>(value); }

TEST(Quant, EveryFormatOfTheProjectHasAKernel) {
  EXPECT_EQ(QuantizedTypes().size(), 19u);
  for (int i = 0; i < static_cast<int>(DType::kCount); ++i) {
    const DType type = static_cast<DType>(i);
    if (type == DType::kI32) {
      EXPECT_EQ(CheckWeightType(type, 256).code(), absl::StatusCode::kUnimplemented);
    } else {
      EXPECT_TRUE(CheckWeightType(type, 256).ok()) << NameOf(type);
    }
    if (InfoOf(type).is_quantized && type != DType::kF8E4M3) {
      EXPECT_TRUE(IsIntegerForm(type)) << NameOf(type);
    }
    for (const KernelTable* table : SupportedTables()) {
      EXPECT_EQ(table->unpack[i] != nullptr, IsIntegerForm(type)) << table->isa;
    }
  }
  EXPECT_EQ(CheckWeightType(DType::kQ8_0, 100).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(CheckWeightType(DType::kBF16, 100).ok());
  EXPECT_EQ(CheckWeightType(DType::kBF16, 0).code(), absl::StatusCode::kInvalidArgument);
}

// Each code byte in turn, then random codes: the unpacked form must give the codec's values bit for
// bit.
TEST(Quant, UnpackedValuesEqualTheCodec) {
  std::mt19937_64 random(1);
  for (DType type : QuantizedTypes()) {
    const int64_t cols = InfoOf(type).block_elems * 3;
    for (int fill = -64; fill < 256; ++fill) {
      const std::vector<std::byte> row = RandomRows(type, 1, cols, 0.01f, fill, random);
      std::vector<float> want(cols);
      DequantizeRow(type, row.data(), cols, want.data());
      for (const KernelTable* table : SupportedTables()) {
        Rows rows(1, cols);
        UnpackWeights(*table, type, row.data(), cols, rows.weights[0]);
        std::vector<float> got(cols);
        table->dequantize_unpacked(rows.weights[0], HasMins(type), cols, got.data());
        for (int64_t k = 0; k < cols; ++k) {
          ASSERT_EQ(BitsOf(got[k]), BitsOf(want[k]))
              << NameOf(type) << " " << table->isa << " fill " << fill << " at " << k << ": "
              << got[k] << " vs " << want[k];
        }
        for (int64_t k = cols; k < rows.padded; ++k) ASSERT_EQ(rows.codes[k], 0);
        for (int64_t g = cols / 16; g < rows.padded / 16; ++g) ASSERT_EQ(rows.scales[g], 0.0f);
      }
    }
  }
}

std::vector<float> Activations(int64_t n, int kind, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::vector<float> x(n);
  for (int64_t k = 0; k < n; ++k) {
    x[k] = normal(random);
    if (kind == 1 && k % 97 == 0) x[k] *= 60.0f;              // outlier channels
    if (kind == 2) x[k] = (random() & 1) ? 127.0f : -127.0f;  // largest products
    if (kind == 3) x[k] *= std::exp2(static_cast<float>(static_cast<int>(random() % 250) - 140));
    if (kind == 4) x[k] = k % 64 < 32 ? 0.0f : x[k];
    if (kind == 5) x[k] = static_cast<float>(k % 255) - 127.5f;  // ties
  }
  return x;
}
constexpr int kActivationKinds = 6;

TEST(Quant, ActivationsAreWithinHalfAStepAndAgreeBetweenTables) {
  std::mt19937_64 random(2);
  for (int kind = 0; kind < kActivationKinds; ++kind) {
    for (int64_t n : {32, 64, 96, 2048}) {
      const std::vector<float> x = Activations(n, kind, random);
      Rows want(1, n);
      SupportedTables().front()->quantize_row(x.data(), n, want.activations[0]);
      for (int64_t k = 0; k < n; ++k) {
        const float scale = want.scales[k / 32];
        const double error = std::abs(x[k] - static_cast<double>(scale) * want.codes[k]);
        // Half a step, and the roundings of scale, its inverse and their product: 2^-22 of 127
        // steps.
        const double bound = scale * (0.5 + 127 * std::exp2(-22));
        ASSERT_LE(error, scale == 0.0f ? std::exp2(-110) : bound) << "kind " << kind;
        ASSERT_GE(want.codes[k], -127);
      }
      for (const KernelTable* table : SupportedTables()) {
        Rows got(1, n);
        table->quantize_row(x.data(), n, got.activations[0]);
        ASSERT_EQ(got.codes, want.codes) << table->isa;
        ASSERT_EQ(std::memcmp(got.scales.data(), want.scales.data(), got.padded / 32 * 4), 0);
        ASSERT_EQ(std::memcmp(got.extra.data(), want.extra.data(), got.padded / 16 * 4), 0);
      }
    }
  }
}

TEST(Quant, ValuesThatAreNotFiniteSpoilTheirBlockVisibly) {
  for (float bad : {INFINITY, -INFINITY, NAN}) {
    for (const KernelTable* table : SupportedTables()) {
      std::vector<float> x(64, 1.0f);
      x[40] = bad;
      Rows got(1, 64);
      table->quantize_row(x.data(), 64, got.activations[0]);
      EXPECT_FALSE(std::isnan(got.scales[0])) << table->isa;
      EXPECT_TRUE(std::isnan(got.scales[1])) << table->isa;
    }
  }
}

struct DotCase {
  DType type;
  int64_t cols, outs, rows;
  std::vector<float> w;            // [outs, cols] by the codec
  std::vector<float> w_magnitude;  // [outs, cols] |scale * code| + |min|: what the sums see
  std::vector<std::byte> blocks;   // [outs] rows
  std::vector<float> x;            // [rows, cols]
};

DotCase MakeDotCase(DType type, int64_t cols, int64_t outs, int64_t rows, int kind,
                    std::mt19937_64& random) {
  DotCase c{type, cols, outs, rows, std::vector<float>(outs * cols), {}, {}, {}};
  c.blocks = RandomRows(type, outs, cols, 0.01f, -1, random);
  const int64_t row_bytes = *RowBytes(type, cols);
  for (int64_t o = 0; o < outs; ++o) {
    DequantizeRow(type, c.blocks.data() + o * row_bytes, cols, c.w.data() + o * cols);
    Rows row(1, cols);
    UnpackWeights(*SupportedTables().front(), type, c.blocks.data() + o * row_bytes, cols,
                  row.weights[0]);
    for (int64_t k = 0; k < cols; ++k) {
      c.w_magnitude.push_back(std::abs(row.scales[k / 16] * row.codes[k]) +
                              (HasMins(type) ? std::abs(row.extra[k / 16]) : 0.0f));
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    const std::vector<float> row = Activations(cols, kind, random);
    c.x.insert(c.x.end(), row.begin(), row.end());
  }
  return c;
}

// y [rows, outs] by `table`; the quantized activations are left in `x`.
std::vector<float> RunDot(const KernelTable& table, const DotCase& c, Rows* x) {
  Rows w(c.outs, c.cols);
  const int64_t row_bytes = *RowBytes(c.type, c.cols);
  for (int64_t o = 0; o < c.outs; ++o) {
    UnpackWeights(table, c.type, c.blocks.data() + o * row_bytes, c.cols, w.weights[o]);
  }
  for (int64_t r = 0; r < c.rows; ++r) {
    table.quantize_row(c.x.data() + r * c.cols, c.cols, x->activations[r]);
  }
  std::vector<float> y(c.rows * c.outs, NAN);
  table.quant_dot({.cols_padded = PaddedCodes(c.cols),
                   .w = w.weights.data(),
                   .outs = c.outs,
                   .has_mins = HasMins(c.type),
                   .x = x->activations.data(),
                   .rows = c.rows,
                   .y = y.data(),
                   .y_stride = c.outs});
  return y;
}

// One output against double arithmetic on the codec's weights. Two bounds: with the quantized
// activations only f32 roundings are left; with the true ones also half a step of each activation.
void CheckOutput(const DotCase& c, const Rows& x, int64_t r, int64_t o, float got) {
  double quantized = 0, exact = 0, magnitude = 0, step_error = 0;
  const float* scales = x.activations[r].scales;
  for (int64_t k = 0; k < c.cols; ++k) {
    const double w = c.w[o * c.cols + k];
    const double step = scales[k / 32];
    const double a = step * x.activations[r].codes[k];
    quantized += w * a;
    exact += w * c.x[r * c.cols + k];
    step_error += std::abs(w) * (step == 0.0 ? std::exp2(-110) : step * 0.5001);
    magnitude += std::abs(a) * c.w_magnitude[o * c.cols + k];
  }
  // Roundings of at most 2^-24 of the magnitude each: the products of scales and the sums of 16
  // activations (2), one addition per 64 values and one per 256 for the minima in a lane, 4 in the
  // tree, 1 more in the codec's own value of scale * code - min.
  const double bound = (c.cols / 64.0 + c.cols / 256.0 + 8) * std::exp2(-24) * magnitude + 1e-37;
  ASSERT_NEAR(got, quantized, bound) << NameOf(c.type) << " row " << r << " output " << o;
  ASSERT_NEAR(got, exact, bound + step_error) << NameOf(c.type) << " row " << r << " output " << o;
}

TEST(Quant, DotMatchesDoubleAndAgreesBetweenTables) {
  std::mt19937_64 random(3);
  for (DType type : QuantizedTypes()) {
    for (int kind = 0; kind < kActivationKinds; ++kind) {
      const int64_t cols = InfoOf(type).block_elems == 32 ? 32 * (2 * kind + 3) : 512;
      const DotCase c = MakeDotCase(type, cols, 7, 9, kind, random);
      Rows x(c.rows, c.cols);
      const std::vector<float> want = RunDot(*SupportedTables().front(), c, &x);
      for (int64_t r = 0; r < c.rows; ++r) {
        for (int64_t o = 0; o < c.outs; ++o) {
          ASSERT_NO_FATAL_FAILURE(CheckOutput(c, x, r, o, want[r * c.outs + o]));
        }
      }
      for (const KernelTable* table : SupportedTables()) {
        const std::vector<float> got = RunDot(*table, c, &x);
        for (size_t i = 0; i < got.size(); ++i) {
          ASSERT_EQ(BitsOf(got[i]), BitsOf(want[i])) << NameOf(type) << " " << table->isa;
        }
      }
    }
  }
}

TEST(Quant, RowBitsDoNotDependOnTheNumberOfRowsOrOutputs) {
  std::mt19937_64 random(4);
  for (DType type : {DType::kQ8_0, DType::kQ4_K, DType::kIQ1_S, DType::kQ5_1}) {
    const DotCase all = MakeDotCase(type, 512, 6, 33, 0, random);
    for (const KernelTable* table : SupportedTables()) {
      Rows x(33, all.cols);
      const std::vector<float> want = RunDot(*table, all, &x);
      for (int64_t rows = 1; rows <= 33; ++rows) {
        DotCase part = all;
        part.rows = rows;
        part.outs = 1 + rows % 6;
        const std::vector<float> got = RunDot(*table, part, &x);
        for (int64_t r = 0; r < rows; ++r) {
          for (int64_t o = 0; o < part.outs; ++o) {
            ASSERT_EQ(BitsOf(got[r * part.outs + o]), BitsOf(want[r * all.outs + o]))
                << table->isa << " " << NameOf(type) << " rows " << rows;
          }
        }
      }
    }
  }
}

TEST(Quant, GridAddIsGridEncodeOnEveryTable) {
  std::mt19937_64 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> y(1003);
  for (float& v : y) v = normal(random);
  y[1] = 0.5f, y[2] = 1.5f, y[3] = -2.5f;
  const int s = GridExponent(1.0f, 1.0f, 8);
  for (float weight : {1.0f, 0.3f, -0.001f}) {
    for (float spoiler : {0.0f, 1e6f, INFINITY, NAN}) {
      y[500] = spoiler;
      std::vector<int32_t> want(y.size(), 5);
      bool all_inside = true;
      for (size_t k = 0; k < y.size(); ++k) {
        const GridTerm term = GridEncode(y[k] * weight, s, GridLimit(8));
        want[k] += term.steps;
        all_inside = all_inside && term.inside;
      }
      for (const KernelTable* table : SupportedTables()) {
        std::vector<int32_t> sums(y.size(), 5);
        const bool inside =
            table->grid_add({y.data(), static_cast<int64_t>(y.size()), weight, GridStep(-s),
                             static_cast<float>(GridLimit(8)), sums.data()});
        EXPECT_EQ(inside, all_inside) << table->isa;
        EXPECT_EQ(sums, want) << table->isa;
      }
    }
  }
}

TEST(Quant, RowConversionsEqualTheCodec) {
  std::mt19937_64 random(6);
  std::vector<uint16_t> half(65536);
  for (size_t i = 0; i < half.size(); ++i) half[i] = static_cast<uint16_t>(i);
  std::vector<float> floats(70001);
  for (float& v : floats) v = std::bit_cast<float>(static_cast<uint32_t>(random()));
  for (const KernelTable* table : SupportedTables()) {
    std::vector<float> wide(half.size());
    table->widen_f16(half.data(), half.size(), wide.data());
    for (size_t i = 0; i < half.size(); ++i) {
      if (std::isnan(F16ToF32(half[i]))) {
        ASSERT_TRUE(std::isnan(wide[i]));
      } else {
        ASSERT_EQ(BitsOf(wide[i]), BitsOf(F16ToF32(half[i]))) << table->isa << " " << i;
      }
    }
    table->widen_bf16(half.data(), half.size() - 3, wide.data());
    for (size_t i = 0; i < half.size() - 3; ++i) {
      ASSERT_EQ(BitsOf(wide[i]), static_cast<uint32_t>(half[i]) << 16) << table->isa;
    }
    std::vector<uint16_t> narrow(floats.size());
    table->narrow_bf16(floats.data(), floats.size(), narrow.data());
    for (size_t i = 0; i < floats.size(); ++i) {
      if (std::isnan(floats[i])) {
        ASSERT_TRUE(std::isnan(BF16ToF32(narrow[i])));
      } else {
        ASSERT_EQ(narrow[i], F32ToBF16(floats[i])) << table->isa;
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
