// Loads and stores of 16 and 8 bytes, the widest that one thread has. Written as functions because
// the emulator checks the alignment that a GPU insists on.
#pragma once

#include "gpu_worker/backend/cuda/simt/simt.h"

namespace tandem::gpu_worker::cuda {

struct Words4 {
  uint32_t w[4];
};

__device__ __forceinline__ bool IsAligned16(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % 16 == 0;
}

// `from` aligned to 16 bytes.
__device__ __forceinline__ Words4 Load16(const void* from) {
#if defined(__CUDACC__)
  const uint4 words = *static_cast<const uint4*>(from);
  return {{words.x, words.y, words.z, words.w}};
#else
  if (!IsAligned16(from)) emulator::Fail("a load of 16 bytes at an address that is no multiple");
  Words4 words;
  std::memcpy(&words, from, sizeof(words));
  return words;
#endif
}

// `to` aligned to 16 bytes.
__device__ __forceinline__ void Store16(void* to, const Words4& words) {
#if defined(__CUDACC__)
  *static_cast<uint4*>(to) = make_uint4(words.w[0], words.w[1], words.w[2], words.w[3]);
#else
  if (!IsAligned16(to)) emulator::Fail("a store of 16 bytes at an address that is no multiple");
  std::memcpy(to, &words, sizeof(words));
#endif
}

// `to` aligned to 8 bytes.
__device__ __forceinline__ void Store8(void* to, uint32_t low, uint32_t high) {
#if defined(__CUDACC__)
  *static_cast<uint2*>(to) = make_uint2(low, high);
#else
  if (reinterpret_cast<uintptr_t>(to) % 8 != 0) {
    emulator::Fail("a store of 8 bytes at an address that is no multiple");
  }
  const uint32_t words[2] = {low, high};
  std::memcpy(to, words, sizeof(words));
#endif
}

}  // namespace tandem::gpu_worker::cuda
