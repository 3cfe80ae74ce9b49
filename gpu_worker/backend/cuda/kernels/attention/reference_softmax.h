// What the oracles of decode and prefill share: softmax attention of one row and head by one thread
// block, page by page, in plain f32 loops. The running maximum moves with each page, as in the fast
// kernels; every sum runs in the order of tokens.
#pragma once

#include <cmath>
#include <cstdint>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"
#include "gpu_worker/backend/cuda/simt/simt.h"

namespace tandem::gpu_worker::cuda {

inline constexpr int kReferenceThreads = 128;
inline constexpr int kReferenceTokens = static_cast<int>(kPageTokens);  // at a time
static_assert(kReferenceThreads >= kReferenceTokens);

__device__ __forceinline__ float ToF32(float value) { return value; }
__device__ __forceinline__ float ToF32(Bf16 value) { return FromBf16(value); }
__device__ __forceinline__ void StoreAs(float value, float* to) { *to = value; }
__device__ __forceinline__ void StoreAs(float value, Bf16* to) { *to = ToBf16(value); }

// The state of a row: `max` and `sum` in every thread, mean [columns] in shared memory, not yet
// divided by the sum.
struct RunningSoftmax {
  float max = -INFINITY, sum = 0.0f;
  float* mean = nullptr;
  int columns = 0;

  // Adds `tokens` (at most kReferenceTokens) with scores [tokens] in shared memory and values
  // [tokens, columns], `stride` apart. All threads together, behind a barrier; overwrites scores.
  template <typename T>
  __device__ void AddPage(float* scores, int tokens, const T* values, int stride) {
    const int thread = static_cast<int>(threadIdx.x);
    float new_max = max;
    for (int j = 0; j < tokens; ++j) new_max = scores[j] > new_max ? scores[j] : new_max;
    __syncthreads();
    if (thread < tokens) scores[thread] = expf(scores[thread] - new_max);
    __syncthreads();
    const float keep = expf(max - new_max);
    sum *= keep;
    for (int j = 0; j < tokens; ++j) sum += scores[j];
    for (int c = thread; c < columns; c += kReferenceThreads) {
      float value = mean[c] * keep;
      for (int j = 0; j < tokens; ++j) value += scores[j] * ToF32(values[int64_t{j} * stride + c]);
      mean[c] = value;
    }
    max = new_max;
  }
};

}  // namespace tandem::gpu_worker::cuda
