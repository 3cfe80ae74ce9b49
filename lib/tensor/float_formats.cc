// Conversions between f32 and the short float formats, on bit patterns so that no instruction set
// or rounding mode matters.
#include <bit>

#include "lib/tensor/codec.h"

namespace tandem {
namespace {

// Shifts `value` right by `shift` (1..31) bits, rounding to nearest even.
uint32_t ShiftRoundEven(uint32_t value, int shift) {
  const uint32_t kept = value >> shift;
  const uint32_t rest = value & ((uint32_t{1} << shift) - 1);
  const uint32_t half = uint32_t{1} << (shift - 1);
  return kept + (rest > half || (rest == half && (kept & 1)) ? 1 : 0);
}

}  // namespace

float F16ToF32(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000) << 16;
  const uint32_t exponent = (bits >> 10) & 31;
  const uint32_t mantissa = bits & 0x3FF;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7F800000 | (mantissa << 13));
  if (exponent != 0) {
    // Biases are 15 and 127.
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  }
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24f;  // exact: ten bits
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

uint16_t F32ToF16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return sign | 0x7E00 | ((magnitude >> 13) & 0x3FF);  // quiet NaN
  // 65520 = 0x477FF000 is halfway between the largest f16, 65504, and the next step: it rounds up,
  // to infinity.
  if (magnitude >= 0x477FF000) return sign | 0x7C00;
  if (magnitude >= 0x38800000) {  // 2^-14, the smallest normal f16
    return sign | static_cast<uint16_t>(ShiftRoundEven(magnitude - (uint32_t{112} << 23), 13));
  }
  // Below: a multiple of 2^-24. The f32 mantissa with its hidden bit is scaled by 2^(e-150); at e <
  // 102 all is under half a step.
  const int exponent = static_cast<int>(magnitude >> 23);
  if (exponent < 102) return sign;
  return sign |
         static_cast<uint16_t>(ShiftRoundEven((magnitude & 0x7FFFFF) | 0x800000, 126 - exponent));
}

float BF16ToF32(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

uint16_t F32ToBF16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16);
}

float F8E4M3ToF32(uint8_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x80) << 24;
  const uint32_t exponent = (bits >> 3) & 15;
  const uint32_t mantissa = bits & 7;
  if (exponent == 15 && mantissa == 7) return std::bit_cast<float>(sign | 0x7FC00000);
  if (exponent != 0) {
    // Biases are 7 and 127.
    return std::bit_cast<float>(sign | ((exponent + 120) << 23) | (mantissa << 20));
  }
  const float magnitude = static_cast<float>(mantissa) * 0x1p-9f;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

uint8_t F32ToF8E4M3(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint8_t>((bits >> 24) & 0x80);
  const uint32_t magnitude = bits & 0x7FFFFFFF;
  if (magnitude > 0x7F800000) return sign | 0x7F;
  if (magnitude >= 0x43E00000) return sign | 0x7E;  // 448, the largest; infinity saturates too
  if (magnitude >= 0x3C800000) {                    // 2^-6, the smallest normal
    return sign | static_cast<uint8_t>(ShiftRoundEven(magnitude - (uint32_t{120} << 23), 20));
  }
  // A multiple of 2^-9; at exponents below 117 (2^-10) all is under half a step.
  const int exponent = static_cast<int>(magnitude >> 23);
  if (exponent < 117) return sign;
  return sign |
         static_cast<uint8_t>(ShiftRoundEven((magnitude & 0x7FFFFF) | 0x800000, 141 - exponent));
}

}  // namespace tandem
