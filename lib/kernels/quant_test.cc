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
#include "lib/kernels/quant_rows.h"
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

// Owns the arrays of one row of unpacked weights.
struct Unpacked {
  explicit Unpacked(int64_t cols)
      : padded(PaddedCodes(cols)),
        codes(padded, 99),
        scales(padded / 16, NAN),
        mins(padded / 16, NAN),
        row{codes.data(), scales.data(), mins.data()} {}
  float Value(DType type, int64_t k) const {
    const float value = scales[k / 16] * static_cast<float>(codes[k]);
    return HasMins(type) ? value - mins[k / 16] : value;
  }
  int64_t padded;
  std::vector<int8_t> codes;
  std::vector<float> scales, mins;
  UnpackedRow row;
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
        Unpacked rows(cols);
        UnpackWeights(*table, type, row.data(), cols, rows.row);
        for (int64_t k = 0; k < cols; ++k) {
          ASSERT_EQ(BitsOf(rows.Value(type, k)), BitsOf(want[k]))
              << NameOf(type) << " " << table->isa << " fill " << fill << " at " << k;
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
      QuantRows want_rows;
      want_rows.Reset(1, n);
      const QuantRow want = want_rows[0];
      SupportedTables().front()->quantize_row(x.data(), n, want);
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
        QuantRows got_rows;
        got_rows.Reset(1, n);
        const QuantRow got = got_rows[0];
        table->quantize_row(x.data(), n, got);
        const int64_t padded = PaddedCodes(n);
        ASSERT_EQ(std::memcmp(got.codes, want.codes, padded), 0) << table->isa;
        ASSERT_EQ(std::memcmp(got.scales, want.scales, padded / 32 * 4), 0) << table->isa;
        ASSERT_EQ(std::memcmp(got.sums, want.sums, padded / 16 * 4), 0) << table->isa;
        ASSERT_EQ(std::memcmp(got.block_sums, want.block_sums, padded / 32 * 4), 0) << table->isa;
        for (int64_t g = 0; g < padded / 16; ++g) {
          int32_t sum = 0;
          for (int64_t k = 16 * g; k < 16 * g + 16; ++k) sum += got.codes[k];
          ASSERT_EQ(got.code_sums[g], sum) << table->isa;
        }
      }
    }
  }
}

TEST(Quant, ValuesThatAreNotFiniteSpoilTheirBlockVisibly) {
  for (float bad : {INFINITY, -INFINITY, NAN}) {
    for (const KernelTable* table : SupportedTables()) {
      std::vector<float> x(64, 1.0f);
      x[40] = bad;
      QuantRows got;
      got.Reset(1, 64);
      table->quantize_row(x.data(), 64, got[0]);
      EXPECT_FALSE(std::isnan(got[0].scales[0])) << table->isa;
      EXPECT_TRUE(std::isnan(got[0].scales[1])) << table->isa;
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
