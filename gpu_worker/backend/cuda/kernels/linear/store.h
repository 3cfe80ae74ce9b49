// Values of rows as kernels read and write them, f32 or bf16.
#pragma once

#include "gpu_worker/backend/cuda/kernels/linear/linear_kernels.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"

namespace tandem::gpu_worker::cuda {

__device__ __forceinline__ float InputAt(const InputRows& x, int64_t matrix, int64_t row,
                                         int64_t k) {
  const int64_t at = matrix * x.batch_stride + row * x.stride + k;
  if (x.storage == Storage::kF32) return static_cast<const float*>(x.x)[at];
  return FromBf16(static_cast<const Bf16*>(x.x)[at]);
}

__device__ __forceinline__ void StoreAt(const OutputRows& y, int64_t matrix, int64_t row, int64_t n,
                                        float value) {
  const int64_t at = matrix * y.batch_stride + row * y.stride + n;
  if (y.storage == Storage::kF32) {
    static_cast<float*>(y.y)[at] = value;
  } else {
    static_cast<Bf16*>(y.y)[at] = ToBf16(value);
  }
}

}  // namespace tandem::gpu_worker::cuda
