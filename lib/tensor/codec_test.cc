#include "lib/tensor/codec.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <vector>

namespace tandem {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The value of a float format by its definition: sign, exponent with bias, mantissa.
// `top_exponent_is_special` as in IEEE.
double ByDefinition(uint32_t code, int exponent_bits, int mantissa_bits,
                    bool top_exponent_is_special) {
  const uint32_t mantissa = code & ((1u << mantissa_bits) - 1);
  const uint32_t exponent = (code >> mantissa_bits) & ((1u << exponent_bits) - 1);
  const double sign = (code >> (mantissa_bits + exponent_bits)) & 1 ? -1 : 1;
  const int bias = (1 << (exponent_bits - 1)) - 1;
  if (top_exponent_is_special && exponent == (1u << exponent_bits) - 1) {
    return mantissa == 0 ? sign * std::numeric_limits<double>::infinity() : std::nan("");
  }
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - mantissa_bits);
  return sign * std::ldexp((1u << mantissa_bits) + mantissa,
                           static_cast<int>(exponent) - bias - mantissa_bits);
}

TEST(FloatFormats, EveryF16CodeHasItsValue) {
  for (uint32_t code = 0; code < 65536; ++code) {
    const double expected = ByDefinition(code, 5, 10, true);
    const float found = F16ToF32(static_cast<uint16_t>(code));
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(found)) << code;
    } else {
      ASSERT_EQ(found, expected) << code;
      ASSERT_EQ(std::signbit(found), std::signbit(expected)) << code;
    }
  }
}

TEST(FloatFormats, EveryF8CodeHasItsValue) {
  for (uint32_t code = 0; code < 256; ++code) {
    const float found = F8E4M3ToF32(static_cast<uint8_t>(code));
    if ((code & 0x7F) == 0x7F) {
      ASSERT_TRUE(std::isnan(found)) << code;
      continue;
    }
    const double expected = ByDefinition(code, 4, 3, false);
    ASSERT_EQ(found, expected) << code;
    ASSERT_EQ(std::signbit(found), std::signbit(expected)) << code;
  }
}

// Rounding is monotonic, so the codes themselves, the midpoints between neighbours and the floats
// beside the midpoints decide the result for every float. `finite_codes`: the non-negative codes up
// to the largest finite one.
template <typename Code>
void CheckRounding(uint32_t finite_codes, float (*decode)(Code), Code (*encode)(float),
                   uint32_t sign_bit) {
  for (uint32_t code = 0; code < finite_codes; ++code) {
    const float value = decode(static_cast<Code>(code));
    ASSERT_EQ(encode(value), code);
    ASSERT_EQ(encode(-value), code | sign_bit);
    if (code + 1 == finite_codes) break;
    const float next = decode(static_cast<Code>(code + 1));
    const auto middle = static_cast<float>((static_cast<double>(value) + next) / 2);
    const uint32_t even = code % 2 == 0 ? code : code + 1;
    ASSERT_EQ(encode(middle), even) << value;
    ASSERT_EQ(encode(-middle), even | sign_bit) << value;
    ASSERT_EQ(encode(std::nextafter(middle, -kInfinity)), code) << value;
    ASSERT_EQ(encode(std::nextafter(middle, kInfinity)), code + 1) << value;
  }
}

TEST(FloatFormats, F16RoundsToNearestEvenEverywhere) {
  CheckRounding<uint16_t>(0x7C00, F16ToF32, F32ToF16, 0x8000);
}
TEST(FloatFormats, BF16RoundsToNearestEvenEverywhere) {
  CheckRounding<uint16_t>(0x7F80, BF16ToF32, F32ToBF16, 0x8000);
}
TEST(FloatFormats, F8RoundsToNearestEvenEverywhere) {
  CheckRounding<uint8_t>(0x7F, F8E4M3ToF32, F32ToF8E4M3, 0x80);
}

TEST(FloatFormats, BeyondTheLargest) {
  EXPECT_EQ(F32ToF16(65519.996f), 0x7BFF);
  EXPECT_EQ(F32ToF16(65520.0f), 0x7C00);
  EXPECT_EQ(F32ToF16(-kInfinity), 0xFC00);
  EXPECT_EQ(F32ToBF16(std::numeric_limits<float>::max()), 0x7F80);
  EXPECT_EQ(F32ToBF16(kInfinity), 0x7F80);
  EXPECT_EQ(F32ToF8E4M3(448.0f), 0x7E);
  EXPECT_EQ(F32ToF8E4M3(1e30f), 0x7E);
  EXPECT_EQ(F32ToF8E4M3(-kInfinity), 0xFE);
}

TEST(FloatFormats, NanStaysAQuietNan) {
  for (const uint32_t bits : {0x7FC00000u, 0x7F800001u, 0xFFFFFFFFu}) {
    const float nan = std::bit_cast<float>(bits);
    const uint32_t sign = bits >> 31;
    EXPECT_EQ(F32ToF16(nan) & 0x7E00, 0x7E00);
    EXPECT_EQ(F32ToBF16(nan) & 0x7FC0, 0x7FC0);
    EXPECT_EQ(F32ToBF16(nan) >> 15, static_cast<int>(sign));
    EXPECT_EQ(F32ToF8E4M3(nan), 0x7F | (sign << 7));
  }
}

std::vector<float> Ramp(int64_t cols) {
  std::vector<float> values(cols);
  for (int64_t i = 0; i < cols; ++i) values[i] = static_cast<float>(i % 37 - 18) * 0.125f;
  return values;
}

TEST(QuantizeRow, PlainFormatsRoundTripTheirOwnValues) {
  const std::vector<float> values = Ramp(96);
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16, DType::kF8E4M3}) {
    // Eighths up to 2.25 are exact in f16 and bf16; e4m3 keeps quarters only above 2.
    std::vector<std::byte> row(*RowBytes(type, 96));
    ASSERT_TRUE(QuantizeRow(type, values.data(), 96, row.data()).ok());
    std::vector<float> back(96);
    DequantizeRow(type, row.data(), 96, back.data());
    for (int i = 0; i < 96; ++i) {
      const float expected =
          type == DType::kF8E4M3 ? F8E4M3ToF32(F32ToF8E4M3(values[i])) : values[i];
      ASSERT_EQ(back[i], expected) << NameOf(type) << " " << i;
    }
  }
}

TEST(QuantizeRow, Q8_0ErrorIsAtMostHalfAStep) {
  const std::vector<float> values = Ramp(64);
  std::vector<std::byte> row(68);
  ASSERT_TRUE(QuantizeRow(DType::kQ8_0, values.data(), 64, row.data()).ok());
  std::vector<float> back(64);
  DequantizeRow(DType::kQ8_0, row.data(), 64, back.data());
  // Step 2.25 / 127; the f16 scale adds 2^-11 of the value.
  for (int i = 0; i < 64; ++i) EXPECT_NEAR(back[i], values[i], 2.25 / 254 + 2.25 / 2048);
}

TEST(QuantizeRow, Q8_0OfDenormalValuesIsZero) {
  const std::vector<float> values(32, 1e-39f);
  std::vector<std::byte> row(34, std::byte{0xAA});
  ASSERT_TRUE(QuantizeRow(DType::kQ8_0, values.data(), 32, row.data()).ok());
  EXPECT_EQ(row, std::vector<std::byte>(34, std::byte{0}));
}

TEST(QuantizeRow, RefusesWhatItCannotKeep) {
  std::vector<float> values = Ramp(64);
  std::vector<std::byte> row(512);
  const absl::Status unknown =
      QuantizeRow(DType::kQ4_K, std::vector<float>(256).data(), 256, row.data());
  EXPECT_EQ(unknown.code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(unknown.message().find("q4_K"), absl::string_view::npos);
  EXPECT_EQ(QuantizeRow(DType::kQ8_0, values.data(), 33, row.data()).code(),
            absl::StatusCode::kInvalidArgument);
  values[40] = std::nanf("");
  const absl::Status nan = QuantizeRow(DType::kQ8_0, values.data(), 64, row.data());
  EXPECT_EQ(nan.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(nan.message().find("block 1"), absl::string_view::npos) << nan;
  values[40] = 1e30f;
  EXPECT_EQ(QuantizeRow(DType::kQ8_0, values.data(), 64, row.data()).code(),
            absl::StatusCode::kOutOfRange);
}

TEST(ValidateRow, PlainTypesHaveNoScales) {
  const float nan = std::nanf("");
  EXPECT_TRUE(ValidateRow(DType::kF32, reinterpret_cast<const std::byte*>(&nan), 1).ok());
  EXPECT_EQ(ValidateRow(DType::kQ8_0, nullptr, 33).code(), absl::StatusCode::kInvalidArgument);
  const std::byte codes[3] = {std::byte{0x7e}, std::byte{0x80}, std::byte{0xff}};
  EXPECT_TRUE(ValidateRow(DType::kF8E4M3, codes, 2).ok());
  EXPECT_EQ(ValidateRow(DType::kF8E4M3, codes, 3).code(), absl::StatusCode::kDataLoss);
}

TEST(DequantizeRowDeath, IntegersHaveNoRealValue) {
  const int32_t value = 1;
  float out;
  EXPECT_DEATH(DequantizeRow(DType::kI32, reinterpret_cast<const std::byte*>(&value), 1, &out),
               "CHECK failed");
}

}  // namespace
}  // namespace tandem
