// Number formats on the device, bit for bit those of lib/tensor: bf16 as uint16_t, e4m3 as uint8_t.
#pragma once

#include "gpu_worker/backend/cuda/simt/simt.h"

namespace tandem::gpu_worker::cuda {

using Bf16 = uint16_t;  // bits

__device__ __forceinline__ float FromBf16(Bf16 bits) {
  return __uint_as_float(static_cast<uint32_t>(bits) << 16);
}

// To nearest, ties to even; a NaN stays a quiet NaN.
__device__ __forceinline__ Bf16 ToBf16(float value) {
  const uint32_t bits = __float_as_uint(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<Bf16>((bits >> 16) | 0x40u);
  return static_cast<Bf16>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

__device__ __forceinline__ float RoundToBf16(float value) { return FromBf16(ToBf16(value)); }

// Two values as the halves of a word, the first lowest: an operand of an mma.
__device__ __forceinline__ uint32_t PackBf16x2(float low, float high) {
#if defined(__CUDACC__)
  uint32_t packed;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(packed) : "f"(high), "f"(low));
  return packed;
#else
  return static_cast<uint32_t>(ToBf16(high)) << 16 | ToBf16(low);
#endif
}

// a b + c for both halves of words, rounded once, to nearest even; subnormal numbers count.
__device__ __forceinline__ uint32_t FmaBf16x2(uint32_t a, uint32_t b, uint32_t c) {
#if defined(__CUDACC__)
  uint32_t d;
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
#else
  uint32_t d = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    // A product has 16 bits and is exact. The sum is rounded to odd on its way to f32, so that the
    // second rounding is the only one.
    const double exact = static_cast<double>(FromBf16(static_cast<Bf16>(a >> shift))) *
                             static_cast<double>(FromBf16(static_cast<Bf16>(b >> shift))) +
                         static_cast<double>(FromBf16(static_cast<Bf16>(c >> shift)));
    float sum = static_cast<float>(exact);
    if (std::isfinite(exact) && static_cast<double>(sum) != exact) {
      if (std::isinf(sum) || std::fabs(static_cast<double>(sum)) > std::fabs(exact)) {
        sum = std::nextafter(sum, 0.0f);
      }
      sum = __uint_as_float(__float_as_uint(sum) | 1u);
    }
    d |= static_cast<uint32_t>(ToBf16(sum)) << shift;
  }
  return d;
#endif
}

// a b + c and a + b with subnormal numbers as zeros of their sign, before and after the operation.
// Between 2^-126 - 2^-150 and 2^-126 the emulator decides after rounding whether a result is
// subnormal; PTX leaves open when a GPU does.
__device__ __forceinline__ float FmaFtz(float a, float b, float c) {
#if defined(__CUDACC__)
  float d;
  asm("fma.rn.ftz.f32 %0, %1, %2, %3;" : "=f"(d) : "f"(a), "f"(b), "f"(c));
  return d;
#else
  return emulator::Flushed(
      std::fma(emulator::Flushed(a), emulator::Flushed(b), emulator::Flushed(c)));
#endif
}
__device__ __forceinline__ float AddFtz(float a, float b) {
#if defined(__CUDACC__)
  float d;
  asm("add.rn.ftz.f32 %0, %1, %2;" : "=f"(d) : "f"(a), "f"(b));
  return d;
#else
  return emulator::Flushed(emulator::Flushed(a) + emulator::Flushed(b));
#endif
}

// f16 bits to f32, exact, subnormal numbers too.
__device__ __forceinline__ float FromF16(uint16_t bits) {
#if defined(__CUDACC__)
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
#else
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t rest = bits & 0x7fffu;
  if (rest >= 0x7c00u) return __uint_as_float(sign | 0x7f800000u | (rest & 0x3ffu) << 13);
  // The bias 127 - 15 = 112 by a multiplication that also normalizes the subnormal codes.
  return __uint_as_float(sign | __float_as_uint(__uint_as_float(rest << 13) * 0x1p112f));
#endif
}

// e4m3 to f32, exact; 0x7f and 0xff are NaN.
__device__ __forceinline__ float FromE4m3(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  const uint32_t rest = code & 0x7fu;
  if (rest == 0x7fu) return __uint_as_float(sign | 0x7fc00000u);
  // Exponent and mantissa moved to f32's places, then the bias 127 - 7 = 120 by a multiplication
  // that also normalizes the subnormal codes.
  return __uint_as_float(sign | rest << 20) * 0x1p120f;
}

// f32 to e4m3: to nearest even, saturating at 448, also for infinities; a NaN gives 0x7f.
__device__ __forceinline__ uint8_t ToE4m3(float value) {
  const uint32_t bits = __float_as_uint(value);
  const uint8_t sign = static_cast<uint8_t>(bits >> 24 & 0x80u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return 0x7f;
  if (magnitude >= 0x43e00000u) return sign | 0x7e;  // 448
  if (magnitude < 0x3c800000u) {                     // 2^-6: subnormal, in steps of 2^-9
    // Adding 2^14 puts the step 2^-9 at f32's last bit, so that the sum rounds to it.
    const float shifted = __uint_as_float(magnitude) + 16384.0f;
    return sign | static_cast<uint8_t>(__float_as_uint(shifted) & 0xffu);
  }
  const uint32_t rounded = magnitude + 0x7ffffu + (magnitude >> 20 & 1u);
  return sign | static_cast<uint8_t>((rounded - (120u << 23)) >> 20);
}

}  // namespace tandem::gpu_worker::cuda
