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

// A value as it will be read again.
template <Storage kStorage>
__device__ __forceinline__ float RoundedTo(float value) {
  return kStorage == Storage::kBf16 ? RoundToBf16(value) : value;
}

// A packet as it lies in memory. Loading is apart from unpacking so that a thread's loads are all
// under way before it waits for the first.
template <Storage kStorage>
struct RawPacket {
  static constexpr int kWords16 = kStorage == Storage::kBf16 ? 1 : 2;
  Words4 words[kWords16];
};

// Whether a packet of `row` from `begin` on can be loaded at once.
template <typename T>
__device__ __forceinline__ bool IsWhole(const T* row, int64_t begin, int64_t end) {
  return begin + kPacket <= end && IsAligned16(row + begin);
}

// row[begin .. begin + 8), where IsWhole; zeros where not `inside`.
template <Storage kStorage>
__device__ __forceinline__ RawPacket<kStorage> LoadWhole(const Stored<kStorage>* row, int64_t begin,
                                                         bool inside = true) {
  RawPacket<kStorage> raw;
#pragma unroll
  for (int i = 0; i < RawPacket<kStorage>::kWords16; ++i) {
    raw.words[i] = {{0, 0, 0, 0}};
    if (inside) raw.words[i] = Load16(row + begin + i * (16 / sizeof(Stored<kStorage>)));
  }
  return raw;
}

// row[begin .. begin + 8), zeros from `end` on, value by value.
template <Storage kStorage>
__device__ __forceinline__ RawPacket<kStorage> LoadSlowly(const Stored<kStorage>* row,
                                                          int64_t begin, int64_t end) {
  RawPacket<kStorage> raw = {};
#pragma unroll
  for (int i = 0; i < kPacket; ++i) {
    if (begin + i >= end) continue;
    if constexpr (kStorage == Storage::kBf16) {
      raw.words[0].w[i / 2] |= static_cast<uint32_t>(row[begin + i]) << (16 * (i % 2));
    } else {
      raw.words[i / 4].w[i % 4] = __float_as_uint(row[begin + i]);
    }
  }
  return raw;
}

template <Storage kStorage>
__device__ __forceinline__ RawPacket<kStorage> LoadRaw(const Stored<kStorage>* row, int64_t begin,
                                                       int64_t end) {
  return IsWhole(row, begin, end) ? LoadWhole<kStorage>(row, begin)
                                  : LoadSlowly<kStorage>(row, begin, end);
}

template <Storage kStorage>
__device__ __forceinline__ void Unpack(const RawPacket<kStorage>& raw, float (&v)[kPacket]) {
#pragma unroll
  for (int i = 0; i < kPacket; ++i) {
    if constexpr (kStorage == Storage::kBf16) {
      const uint32_t word = raw.words[0].w[i / 2];
      v[i] = __uint_as_float(i % 2 == 0 ? word << 16 : word & 0xffff0000u);
    } else {
      v[i] = __uint_as_float(raw.words[i / 4].w[i % 4]);
    }
  }
}

// v = row[begin .. begin + 8), zeros from `end` on.
template <Storage kStorage>
__device__ __forceinline__ void LoadPacket(const Stored<kStorage>* row, int64_t begin, int64_t end,
                                           float (&v)[kPacket]) {
  Unpack(LoadRaw<kStorage>(row, begin, end), v);
}

// The same of two rows, both loads under way at once.
template <Storage kFirst, Storage kSecond>
__device__ __forceinline__ void LoadPackets(const Stored<kFirst>* first,
                                            const Stored<kSecond>* second, int64_t begin,
                                            int64_t end, float (&v)[kPacket], float (&w)[kPacket]) {
  RawPacket<kFirst> of_first;
  RawPacket<kSecond> of_second;
  if (IsWhole(first, begin, end) && IsWhole(second, begin, end)) {
    of_first = LoadWhole<kFirst>(first, begin);
    of_second = LoadWhole<kSecond>(second, begin);
  } else {
    of_first = LoadSlowly<kFirst>(first, begin, end);
    of_second = LoadSlowly<kSecond>(second, begin, end);
  }
  Unpack(of_first, v);
  Unpack(of_second, w);
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

__device__ __forceinline__ uint32_t BitsOf(float value) { return __float_as_uint(value); }
__device__ __forceinline__ uint32_t BitsOf(int32_t value) { return static_cast<uint32_t>(value); }

// The same for values of four bytes: float or int32_t.
template <typename T>
__device__ __forceinline__ void StorePacket(const T (&v)[kPacket], T* row, int64_t begin,
                                            int64_t end) {
  static_assert(sizeof(T) == 4);
  if (begin + kPacket <= end && IsAligned16(row + begin)) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      Words4 words;
#pragma unroll
      for (int i = 0; i < 4; ++i) words.w[i] = BitsOf(v[4 * half + i]);
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
