#include "lib/model/synth_blocks.h"

#include <cmath>
#include <cstring>
#include <vector>

#include "gtest/gtest.h"
#include "lib/model/synth_types.h"
#include "lib/tensor/codec.h"

namespace tandem {
namespace {

struct Moments {
  double mean = 0, deviation = 0;
};

Moments MomentsOf(DType type, int64_t cols, double std_dev, int64_t row_count) {
  const RandomRows rows(type, cols, std_dev);
  std::vector<std::byte> row(rows.row_bytes());
  std::vector<float> values(cols);
  double sum = 0, squares = 0;
  for (int64_t r = 0; r < row_count; ++r) {
    rows.Fill(MixSeed(7, r), row.data());
    EXPECT_TRUE(ValidateRow(type, row.data(), cols).ok()) << NameOf(type);
    DequantizeRow(type, row.data(), cols, values.data());
    for (const float value : values) {
      sum += value;
      squares += static_cast<double>(value) * value;
    }
  }
  const double count = static_cast<double>(row_count * cols);
  return {sum / count, std::sqrt(squares / count)};
}

TEST(SynthBlocks, EveryFormatHasTheAskedDeviation) {
  for (int i = 0; i < static_cast<int>(DType::kCount); ++i) {
    const DType type = static_cast<DType>(i);
    if (type == DType::kI32 || type == DType::kF8E4M3) continue;
    // The widest rows published models have, hence the smallest scales.
    const double asked = 1.0 / std::sqrt(18432.0);
    const Moments found = MomentsOf(type, 1024, asked, 64);
    EXPECT_NEAR(found.deviation / asked, 1.0, 0.1) << NameOf(type);
    EXPECT_LT(std::abs(found.mean) / asked, 0.25) << NameOf(type);
  }
}

TEST(SynthBlocks, Fp8CodesTimesScale) {
  const Moments codes = MomentsOf(DType::kF8E4M3, 1024, 1.0, 16);
  EXPECT_NEAR(codes.deviation * Fp8ScaleInv(0.01), 0.01, 0.0005);
}

TEST(SynthBlocks, RowsDependOnTheSeedOnly) {
  for (const DType type : {DType::kBF16, DType::kQ4_K, DType::kIQ1_M}) {
    const RandomRows rows(type, 512, 0.05);
    std::vector<std::byte> a(rows.row_bytes()), b(rows.row_bytes()), c(rows.row_bytes());
    rows.Fill(3, a.data());
    rows.Fill(3, b.data());
    rows.Fill(4, c.data());
    EXPECT_EQ(a, b);
    EXPECT_NE(a, c);
  }
}

TEST(SynthBlocks, FloatFormatsHoldTheSameNumbers) {
  const RandomRows wide(DType::kF32, 130, 0.1), narrow(DType::kBF16, 130, 0.1);
  std::vector<float> exact(130), rounded(130);
  std::vector<std::byte> row(narrow.row_bytes());
  wide.Fill(5, reinterpret_cast<std::byte*>(exact.data()));
  narrow.Fill(5, row.data());
  DequantizeRow(DType::kBF16, row.data(), 130, rounded.data());
  for (int i = 0; i < 130; ++i) EXPECT_EQ(rounded[i], BF16ToF32(F32ToBF16(exact[i]))) << i;
}

// The types of a stock DeepSeek-V3 q4_K_M file: 27 of 58 MoE layers have q6_K down projections.
TEST(SynthTypes, StockMixOfDeepSeekV3) {
  const SynthFormat format = *ParseSynthFormat("Q4_K_M", false);
  const auto type = [&](TensorRole role, int64_t layer, int64_t cols) {
    return GgufTypeOf(format, role, layer, 61, cols);
  };
  int wide = 0;
  for (int64_t layer = 3; layer < 61; ++layer) {
    const DType down = type(TensorRole::kStackedDown, layer, 2048);
    EXPECT_TRUE(down == DType::kQ6_K || down == DType::kQ4_K);
    EXPECT_EQ(type(TensorRole::kSharedDown, layer, 2048), down);
    wide += down == DType::kQ6_K ? 1 : 0;
  }
  EXPECT_EQ(wide, 27);
  EXPECT_EQ(type(TensorRole::kStackedDown, 6, 2048), DType::kQ6_K);
  EXPECT_EQ(type(TensorRole::kStackedDown, 7, 2048), DType::kQ4_K);
  EXPECT_EQ(type(TensorRole::kStackedDown, 9, 2048), DType::kQ6_K);
  EXPECT_EQ(type(TensorRole::kStackedDown, 53, 2048), DType::kQ6_K);
  EXPECT_EQ(type(TensorRole::kStackedGate, 3, 7168), DType::kQ4_K);
  EXPECT_EQ(type(TensorRole::kDenseDown, 0, 18432), DType::kQ6_K);
  EXPECT_EQ(type(TensorRole::kKB, 0, 128), DType::kQ5_0);
  EXPECT_EQ(type(TensorRole::kLmHead, 0, 7168), DType::kQ6_K);
  EXPECT_EQ(type(TensorRole::kRouter, 5, 7168), DType::kF32);
  EXPECT_EQ(type(TensorRole::kAttnNorm, 5, 7168), DType::kF32);
}

TEST(SynthTypes, IQ1KeepsEarlyDownProjectionsWider) {
  const SynthFormat format = *ParseSynthFormat("iq1_s", false);
  EXPECT_EQ(GgufTypeOf(format, TensorRole::kStackedDown, 4, 61, 2048), DType::kQ2_K);
  EXPECT_EQ(GgufTypeOf(format, TensorRole::kStackedDown, 5, 61, 2048), DType::kIQ1_S);
  EXPECT_EQ(GgufTypeOf(format, TensorRole::kO, 5, 61, 16384), DType::kIQ2_XXS);
  EXPECT_EQ(GgufTypeOf(format, TensorRole::kLmHead, 0, 61, 7168), DType::kQ5_K);
  const SynthFormat pure = *ParseSynthFormat("iq1_s", true);
  EXPECT_EQ(GgufTypeOf(pure, TensorRole::kStackedDown, 4, 61, 2048), DType::kIQ1_S);
}

// 1408 columns, DeepSeek-V2-Lite's experts, are no multiple of 256.
TEST(SynthTypes, ShortRowsFallBack) {
  const auto type = [](const char* name, int64_t cols) {
    return GgufTypeOf(*ParseSynthFormat(name, true), TensorRole::kStackedUp, 1, 27, cols);
  };
  EXPECT_EQ(type("q4_K", 1408), DType::kQ5_0);
  EXPECT_EQ(type("q5_K", 1408), DType::kQ5_1);
  EXPECT_EQ(type("q6_K", 1408), DType::kQ8_0);
  EXPECT_EQ(type("q2_K", 1408), DType::kQ4_0);
  EXPECT_EQ(type("iq1_s", 1408), DType::kIQ4_NL);
  EXPECT_EQ(type("q8_0", 1408), DType::kQ8_0);
  EXPECT_EQ(type("q8_0", 1400), DType::kF16);
}

TEST(SynthTypes, UnknownNamesAreRefused) {
  EXPECT_EQ(ParseSynthFormat("q4_K_XXL", false).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ParseSynthFormat("i32", false).status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ParseSynthFormat("q4_K_M", true).status().code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem
