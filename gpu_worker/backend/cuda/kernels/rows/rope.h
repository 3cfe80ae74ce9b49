// Rotation of one packet of pairs, for queries and for cached keys. kHalves: as in RopeArgs.
#pragma once

#include "gpu_worker/backend/cuda/kernels/rows/packet.h"

namespace tandem::gpu_worker::cuda {

constexpr int64_t RopePackets(int64_t rope) { return PacketsOf(rope / 2); }

// The pairs of packet `packet` of to [rope] = those of `from`, which may be `to`, turned by the
// row's `cos` and `sin` [rope / 2]. Products are rounded before they are added, as on the host.
template <Storage kStorage, bool kHalves>
__device__ __forceinline__ void RotatePacket(int64_t rope, const Stored<kStorage>* from,
                                             const float* cos, const float* sin, int64_t packet,
                                             Stored<kStorage>* to) {
  const int64_t half = rope / 2, begin = packet * kPacket;
  float c[kPacket], s[kPacket], first[kPacket], second[kPacket];
  LoadPackets<Storage::kF32, Storage::kF32>(cos, sin, begin, half, c, s);
  RawPacket<kStorage> of_first, of_second;
  if constexpr (kHalves) {  // a in `first`, b in `second`
    of_first = LoadRaw<kStorage>(from, begin, half);
    of_second = LoadRaw<kStorage>(from + half, begin, half);
  } else {  // pairs side by side
    of_first = LoadRaw<kStorage>(from, 2 * begin, rope);
    of_second = LoadRaw<kStorage>(from, 2 * begin + kPacket, rope);
  }
  Unpack(of_first, first);
  Unpack(of_second, second);
#pragma unroll
  for (int i = 0; i < kPacket; ++i) {
    constexpr int kLow = kPacket / 2;
    float& a = kHalves ? first[i] : i < kLow ? first[2 * i] : second[2 * (i - kLow)];
    float& b = kHalves ? second[i] : i < kLow ? first[2 * i + 1] : second[2 * (i - kLow) + 1];
    const float turned_a = __fsub_rn(__fmul_rn(a, c[i]), __fmul_rn(b, s[i]));
    const float turned_b = __fadd_rn(__fmul_rn(b, c[i]), __fmul_rn(a, s[i]));
    a = turned_a;
    b = turned_b;
  }
  if constexpr (kHalves) {
    StorePacket(first, to, begin, half);
    StorePacket(second, to + half, begin, half);
  } else {
    StorePacket(first, to, 2 * begin, rope);
    StorePacket(second, to, 2 * begin + kPacket, rope);
  }
}

}  // namespace tandem::gpu_worker::cuda
