// The language of the kernels: CUDA's, or, under a host compiler, the same words from the emulator
// (emulator/emulator.h), which runs every thread of a block as a fiber. A kernel is written once;
// its tests run on the CPU in every build and on a GPU where there is one. What a kernel may use is
// what both sides have: this header, mma.h, async_copy.h and hopper.h. There is no __shared__:
// shared memory is carved from SharedMemory(), so that the emulator can poison and bound it.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#include "gpu_worker/backend/cuda/simt/cuda_language.h"
#else
#include "gpu_worker/backend/cuda/emulator/language.h"
#endif

namespace tandem::gpu_worker::cuda {

inline constexpr int kWarpThreads = 32;
inline constexpr uint32_t kFullWarp = 0xffffffffu;

__device__ __forceinline__ int LaneId() { return static_cast<int>(threadIdx.x) % kWarpThreads; }
__device__ __forceinline__ int WarpId() { return static_cast<int>(threadIdx.x) / kWarpThreads; }

// Sum and maximum over the warp in a fixed order, butterfly from lane distance 16 down: the same
// bits in every lane and every launch.
__device__ __forceinline__ float WarpSum(float value) {
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kFullWarp, value, distance);
  }
  return value;
}
__device__ __forceinline__ float WarpMax(float value) {
  for (int distance = 16; distance > 0; distance /= 2) {
    const float other = __shfl_xor_sync(kFullWarp, value, distance);
    value = other > value ? other : value;
  }
  return value;
}

// Sum over a block whose size is a multiple of a warp, the same bits in every thread; `scratch`:
// one float a warp in shared memory, free again after the next __syncthreads().
__device__ __forceinline__ float BlockSum(float value, float* scratch) {
  value = WarpSum(value);
  if (LaneId() == 0) scratch[WarpId()] = value;
  __syncthreads();
  float sum = 0.0f;
  for (unsigned w = 0; w < blockDim.x / kWarpThreads; ++w) sum += scratch[w];
  return sum;
}

}  // namespace tandem::gpu_worker::cuda
