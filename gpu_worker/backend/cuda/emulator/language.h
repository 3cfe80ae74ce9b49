// CUDA's words for a host compiler: what simt.h includes when nvcc is not the one that reads it.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "gpu_worker/backend/cuda/emulator/emulator.h"

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__

#define threadIdx (::tandem::gpu_worker::cuda::emulator::ThreadIndex())
#define blockIdx (::tandem::gpu_worker::cuda::emulator::BlockIndex())
#define blockDim (::tandem::gpu_worker::cuda::emulator::BlockShape())
#define gridDim (::tandem::gpu_worker::cuda::emulator::GridShape())

namespace tandem::gpu_worker::cuda {

using emulator::dim3;

inline unsigned char* SharedMemory() { return emulator::SharedMemory(); }
inline uint32_t SharedAddress(const void* pointer) { return emulator::SharedAddress(pointer); }

inline float FastExp2(float x) {
  const float y = std::exp2(x);
  return std::fpclassify(y) == FP_SUBNORMAL ? 0.0f : y;
}

inline void __syncthreads() { emulator::BarrierSync(0, emulator::BlockThreads()); }

namespace emulator {

inline float Flushed(float x) {
  return std::fpclassify(x) == FP_SUBNORMAL ? std::copysign(0.0f, x) : x;
}

template <typename T>
struct ShuffleArguments {
  T value;
  int source;  // lane to read from
  T result;
};

template <typename T>
T Shuffle(uint32_t mask, T value, int source) {
  ShuffleArguments<T> mine{value, source, value};
  WarpCollective(mask, mine, [](ShuffleArguments<T>* const* lanes, uint32_t) {
    for (int lane = 0; lane < 32; ++lane) {
      if (lanes[lane] == nullptr) continue;
      const ShuffleArguments<T>* from = lanes[lanes[lane]->source];
      if (from == nullptr) Fail("a shuffle reads a lane that takes no part in it");
      lanes[lane]->result = from->value;
    }
  });
  return mine.result;
}

struct VoteArguments {
  bool predicate;
  uint32_t ballot;
};

inline uint32_t Vote(uint32_t mask, bool predicate) {
  VoteArguments mine{predicate, 0};
  WarpCollective(mask, mine, [](VoteArguments* const* lanes, uint32_t) {
    uint32_t ballot = 0;
    for (int lane = 0; lane < 32; ++lane) {
      if (lanes[lane] != nullptr && lanes[lane]->predicate) ballot |= 1u << lane;
    }
    for (int lane = 0; lane < 32; ++lane) {
      if (lanes[lane] != nullptr) lanes[lane]->ballot = ballot;
    }
  });
  return mine.ballot;
}

struct NoArguments {};

}  // namespace emulator

inline void __syncwarp(uint32_t mask = 0xffffffffu) {
  emulator::NoArguments none;
  emulator::WarpCollective(mask, none, [](emulator::NoArguments* const*, uint32_t) {});
}
template <typename T>
T __shfl_sync(uint32_t mask, T value, int source, int width = 32) {
  const int lane = emulator::Lane();
  return emulator::Shuffle(mask, value, lane / width * width + source % width);
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int bits) {
  return emulator::Shuffle(mask, value, emulator::Lane() ^ bits);
}
template <typename T>
T __shfl_down_sync(uint32_t mask, T value, unsigned distance) {
  const int lane = emulator::Lane(), source = lane + static_cast<int>(distance);
  return emulator::Shuffle(mask, value, source < 32 ? source : lane);
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, unsigned distance) {
  const int lane = emulator::Lane(), source = lane - static_cast<int>(distance);
  return emulator::Shuffle(mask, value, source >= 0 ? source : lane);
}
inline uint32_t __ballot_sync(uint32_t mask, bool predicate) {
  return emulator::Vote(mask, predicate);
}
inline bool __any_sync(uint32_t mask, bool predicate) {
  return emulator::Vote(mask, predicate) != 0;
}
inline bool __all_sync(uint32_t mask, bool predicate) {
  return emulator::Vote(mask, predicate) == mask;
}

namespace emulator {

struct ReduceArguments {
  uint32_t value;
  uint32_t result;
};

template <bool kMax>
uint32_t ReduceLanes(uint32_t mask, uint32_t value) {
  ReduceArguments mine{value, value};
  WarpCollective(mask, mine, [](ReduceArguments* const* lanes, uint32_t) {
    uint32_t result = kMax ? 0 : 0xffffffffu;
    for (int lane = 0; lane < 32; ++lane) {
      if (lanes[lane] == nullptr) continue;
      const uint32_t v = lanes[lane]->value;
      result = (v > result) == kMax ? v : result;
    }
    for (int lane = 0; lane < 32; ++lane) {
      if (lanes[lane] != nullptr) lanes[lane]->result = result;
    }
  });
  return mine.result;
}

}  // namespace emulator

inline uint32_t __reduce_max_sync(uint32_t mask, uint32_t value) {
  return emulator::ReduceLanes<true>(mask, value);
}
inline uint32_t __reduce_min_sync(uint32_t mask, uint32_t value) {
  return emulator::ReduceLanes<false>(mask, value);
}

// Operations that nvcc never contracts into a fused multiply-add; no host file is compiled with
// contraction.
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }

// Fibers of a block never run at the same time and a block runs to its end before the next.
inline int atomicAdd(int* to, int value) {
  const int old = *to;
  *to += value;
  return old;
}
inline unsigned atomicAdd(unsigned* to, unsigned value) {
  const unsigned old = *to;
  *to += value;
  return old;
}
inline unsigned long long atomicAdd(unsigned long long* to, unsigned long long value) {
  const unsigned long long old = *to;
  *to += value;
  return old;
}
// c plus the halves of `pairs` times the two lowest bytes of `factors`, all signed.
inline int __dp2a_lo(int pairs, int factors, int c) {
  return c + static_cast<int16_t>(pairs & 0xffff) * static_cast<int8_t>(factors & 0xff) +
         static_cast<int16_t>(pairs >> 16) * static_cast<int8_t>(factors >> 8 & 0xff);
}
inline void __threadfence() {}
inline void __threadfence_block() {}

inline float __uint_as_float(uint32_t bits) {
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}
inline uint32_t __float_as_uint(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits;
}
template <typename T>
T __ldg(const T* pointer) {
  return *pointer;
}
// Byte i of the result is byte (selector >> 4 i) & 7 of b:a, a in the low half.
inline uint32_t __byte_perm(uint32_t a, uint32_t b, uint32_t selector) {
  const uint64_t both = static_cast<uint64_t>(b) << 32 | a;
  uint32_t result = 0;
  for (int i = 0; i < 4; ++i) {
    const uint32_t which = selector >> (4 * i) & 7;
    result |= static_cast<uint32_t>(both >> (8 * which) & 0xff) << (8 * i);
  }
  return result;
}

}  // namespace tandem::gpu_worker::cuda
