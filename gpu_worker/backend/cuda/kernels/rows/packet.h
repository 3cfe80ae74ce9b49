// Packets: the eight consecutive values of a row that one thread takes at a time, as f32 in
// registers; 16 bytes of bf16. A packet that is whole and aligned is loaded at once, any other
// value by value, with the same result, so a row's arithmetic does not depend on where it lies.
#pragma once

#include "gpu_worker/backend/cuda/kernels/rows/rows.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"
#include "gpu_worker/backend/cuda/simt/vector_access.h"

namespace tandem::gpu_worker::cuda {

inline constexpr int kPacket = 8;

template <Storage kStorage>
struct StoredValue;
template <>
struct StoredValue<Storage::kBf16> {
  using Type = Bf16;
};
template <>
struct StoredValue<Storage::kF32> {
  using Type = float;
};
template <Storage kStorage>
using Stored = typename StoredValue<kStorage>::Type;

__device__ __forceinline__ float Widened(Bf16 value) { return FromBf16(value); }
__device__ __forceinline__ float Widened(float value) { return value; }
__device__ __forceinline__ void Put(float value, Bf16* to) { *to = ToBf16(value); }
__device__ __forceinline__ void Put(float value, float* to) { *to = value; }

// A value as it will be read again.
template <Storage kStorage>
__device__ __forceinline__ float RoundedTo(float value) {
  return kStorage == Storage::kBf16 ? RoundToBf16(value) : value;
}

// v = row[begin .. begin + 8), zeros from `end` on.
__device__ __forceinline__ void LoadPacket(const Bf16* row, int64_t begin, int64_t end,
                                           float (&v)[kPacket]) {
  if (begin + kPacket <= end && IsAligned16(row + begin)) {
    const Words4 words = Load16(row + begin);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      v[2 * i] = __uint_as_float(words.w[i] << 16);
      v[2 * i + 1] = __uint_as_float(words.w[i] & 0xffff0000u);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kPacket; ++i) v[i] = begin + i < end ? FromBf16(row[begin + i]) : 0.0f;
}

__device__ __forceinline__ void LoadPacket(const float* row, int64_t begin, int64_t end,
                                           float (&v)[kPacket]) {
  if (begin + kPacket <= end && IsAligned16(row + begin)) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Words4 words = Load16(row + begin + 4 * half);
#pragma unroll
      for (int i = 0; i < 4; ++i) v[4 * half + i] = __uint_as_float(words.w[i]);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kPacket; ++i) v[i] = begin + i < end ? row[begin + i] : 0.0f;
}

// row[begin .. begin + 8) = v, nothing from `end` on.
__device__ __forceinline__ void StorePacket(const float (&v)[kPacket], Bf16* row, int64_t begin,
                                            int64_t end) {
  if (begin + kPacket <= end && IsAligned16(row + begin)) {
    Words4 words;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      words.w[i] = static_cast<uint32_t>(ToBf16(v[2 * i + 1])) << 16 | ToBf16(v[2 * i]);
    }
    Store16(row + begin, words);
    return;
  }
#pragma unroll
  for (int i = 0; i < kPacket; ++i) {
    if (begin + i < end) row[begin + i] = ToBf16(v[i]);
  }
}

__device__ __forceinline__ void StorePacket(const float (&v)[kPacket], float* row, int64_t begin,
                                            int64_t end) {
  if (begin + kPacket <= end && IsAligned16(row + begin)) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Words4 words;
#pragma unroll
      for (int i = 0; i < 4; ++i) words.w[i] = __float_as_uint(v[4 * half + i]);
      Store16(row + begin + 4 * half, words);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kPacket; ++i) {
    if (begin + i < end) row[begin + i] = v[i];
  }
}

constexpr int64_t PacketsOf(int64_t values) { return (values + kPacket - 1) / kPacket; }

}  // namespace tandem::gpu_worker::cuda
