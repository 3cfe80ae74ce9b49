// Weights from their packed words to pairs of bf16, the B operand of an mma, in registers. Exact
// for fp8; int codes are exact until the product with their scale, which is rounded to bf16 once,
// as docs/formats.md has it. Runs on the host as well, where every code is tested.
#pragma once

#include "gpu_worker/backend/cuda/simt/numbers.h"

namespace tandem::gpu_worker::cuda {

// Negative zero in both halves: added to a product it changes nothing, not even a zero's sign.
inline constexpr uint32_t kNoAddend = 0x80008000u;
inline constexpr uint32_t kOnes = 0x3f803f80u;

// Four e4m3 codes; b[0] is codes 0 and 2, b[1] codes 1 and 3.
__device__ __forceinline__ void DecodeFp8(uint32_t word, uint32_t (&b)[2]) {
  // A code in a half's upper byte: sign in place, exponent and mantissa shifted into bf16's. That
  // is 2^-120 of the number, since the biases are 7 and 127, also of subnormal ones.
  constexpr uint32_t kTwoTo120 = 0x7b807b80u;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t high = i == 0 ? word << 8 : word;
    const uint32_t small = (high & 0x80008000u) | (high & 0x7f007f00u) >> 4;
    b[i] = FmaBf16x2(small, kTwoTo120, kNoAddend);
  }
}

// Codes are integers from 0; those of two outputs' inputs as Marlin orders them. scale: bf16 twice.
// 128 + x for x < 128 is 0x4300 + x in bf16.
__device__ __forceinline__ uint32_t ScaleInts(uint32_t plus, uint32_t minus, uint32_t scale) {
  return FmaBf16x2(FmaBf16x2(plus, kOnes, minus), scale, kNoAddend);
}

// Four int8 codes plus 128; b[0] is bytes 0 and 2, b[1] bytes 1 and 3.
__device__ __forceinline__ void DecodeInt8(uint32_t word, uint32_t scale, uint32_t (&b)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t low = word >> (8 * i);
    // 128 + the lower seven bits, minus 256 where the upper bit is clear, minus 128 where it is
    // set.
    const uint32_t plus = (low & 0x007f007fu) | 0x43004300u;
    const uint32_t minus = (low & 0x00800080u) ^ 0xc380c380u;
    b[i] = ScaleInts(plus, minus, scale);
  }
}

// Half of eight int4 codes plus 8: of one output; which: 0 or 1. b[0] is nibbles 2 which and
// 2 which + 4, b[1] the next of each.
__device__ __forceinline__ void DecodeInt4(uint32_t word, int which, uint32_t scale,
                                           uint32_t (&b)[2]) {
  constexpr uint32_t kMinus136 = 0xc308c308u;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t plus = (word >> (8 * which + 4 * i) & 0x000f000fu) | 0x43004300u;
    b[i] = ScaleInts(plus, kMinus136, scale);
  }
}

}  // namespace tandem::gpu_worker::cuda
