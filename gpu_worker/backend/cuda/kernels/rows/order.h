// Floats as integers in the same order, for searches that compare and reduce integers.
#pragma once

#include "gpu_worker/backend/cuda/simt/simt.h"

namespace tandem::gpu_worker::cuda {

// Ascending with the value, 0 for no number; both zeros are one value; NaN counts as -infinity.
__device__ __forceinline__ uint32_t OrderOf(float value) {
  const uint32_t bits = __float_as_uint(value + 0.0f);  // -0 becomes +0
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x007fffffu;
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

}  // namespace tandem::gpu_worker::cuda
