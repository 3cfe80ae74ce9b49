// One run of 128 values to e4m3 with a scale: the arithmetic of lib/kernels/fp8_linear.h, shared by
// the kernels that quantize what lies in memory and those that quantize what they have just made.
#pragma once

#include "gpu_worker/backend/cuda/kernels/rows/packet.h"

namespace tandem::gpu_worker::cuda {

inline constexpr int kFp8Run = 128;
inline constexpr int kFp8RunLanes = kFp8Run / kPacket;

constexpr int64_t Fp8Runs(int64_t cols) { return (cols + kFp8Run - 1) / kFp8Run; }

// Quantizes the packets of an aligned group of 16 lanes; all lanes of the warp call. Writes this
// lane's eight codes and, in the group's first lane, the scale; `wanted` (one value for the group)
// false: nothing.
__device__ __forceinline__ void QuantizeRun(const float (&v)[kPacket], bool wanted, uint8_t* codes,
                                            float* scale_out) {
  constexpr uint32_t kInfinity = 0x7f800000u, kSmallestNormal = 0x00800000u;
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < kPacket; ++i) {
    const uint32_t magnitude = __float_as_uint(v[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
#pragma unroll
  for (int distance = kFp8RunLanes / 2; distance > 0; distance /= 2) {
    const uint32_t other = __shfl_xor_sync(kFullWarp, largest, distance);
    largest = other > largest ? other : largest;
  }
  if (!wanted) return;
  float scale = __uint_as_float(largest) / 448.0f;
  uint32_t words[2] = {0, 0};
  if (largest >= kInfinity) {
    scale = __uint_as_float(0x7fc00000u);
  } else if (__float_as_uint(scale) < kSmallestNormal) {
    scale = 0.0f;
  } else {
#pragma unroll
    for (int i = 0; i < kPacket; ++i) {
      words[i / 4] |= static_cast<uint32_t>(ToE4m3(v[i] / scale)) << (8 * (i % 4));
    }
  }
  Store8(codes, words[0], words[1]);
  if (LaneId() % kFp8RunLanes == 0) *scale_out = scale;
}

}  // namespace tandem::gpu_worker::cuda
