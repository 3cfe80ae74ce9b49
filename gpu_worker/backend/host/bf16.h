// Rounding to bf16 inside loops over whole rows. lib/tensor/codec has the same function as the
// oracle of formats; these are inline because attention and linear layers call them per value (a
// test compares the two on every bit pattern).
#pragma once

#include <bit>
#include <cstdint>

namespace tandem::gpu_worker {

inline float Bf16Value(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}

// To nearest, ties to even; NaN stays a quiet NaN.
inline uint16_t Bf16Bits(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7FFFu + ((bits >> 16) & 1u)) >> 16);
}

inline float RoundBf16(float value) { return Bf16Value(Bf16Bits(value)); }

}  // namespace tandem::gpu_worker
