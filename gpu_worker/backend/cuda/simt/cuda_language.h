// The real thing: names of simt.h that CUDA spells otherwise.
#pragma once

#include <cuda_runtime.h>

namespace tandem::gpu_worker::cuda {

// The block's dynamic shared memory, aligned to 1024 bytes (what swizzled TMA tiles need).
__device__ __forceinline__ unsigned char* SharedMemory() {
  extern __shared__ __align__(1024) unsigned char tandem_shared_memory[];
  return tandem_shared_memory;
}

// A pointer into shared memory as PTX wants it.
__device__ __forceinline__ uint32_t SharedAddress(const void* pointer) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(pointer));
}

// 2^x, at most 2 ulp off, denormals to zero.
__device__ __forceinline__ float FastExp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace tandem::gpu_worker::cuda
