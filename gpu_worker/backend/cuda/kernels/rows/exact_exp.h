// exp and what is made of it, bit for bit that of lib/kernels/activation.h: the same polynomial
// with the same roundings, so that router weights and gates do not depend on where they are
// computed. Nothing here may be contracted: a fused multiply-add stands only where the host has
// one.
#pragma once

#include <cmath>

#include "gpu_worker/backend/cuda/simt/simt.h"

namespace tandem::gpu_worker::cuda {

// The derivation of the constants is in lib/kernels/body/activation.inl.
__device__ __forceinline__ float ExactExp(float x) {
  const float magic = 12582912.0f;  // 1.5 * 2^23: rounds to a whole number
  const float shifted = fmaf(x, 1.44269504088896341f, magic);
  const float n = __fsub_rn(shifted, magic);
  const float r = fmaf(n, -1.428606820309417e-6f, fmaf(n, -0.693145751953125f, x));
  float p = 1.0f / 5040.0f;
  p = fmaf(p, r, 1.0f / 720.0f);
  p = fmaf(p, r, 1.0f / 120.0f);
  p = fmaf(p, r, 1.0f / 24.0f);
  p = fmaf(p, r, 1.0f / 6.0f);
  p = fmaf(p, r, 0.5f);
  p = fmaf(p, r, 1.0f);
  p = fmaf(p, r, 1.0f);
  const int exponent = static_cast<int>(__float_as_uint(shifted) - __float_as_uint(magic));
  const int half = exponent >> 1, rest = exponent - half;
  p = __fmul_rn(p, __uint_as_float(static_cast<uint32_t>(half + 127) << 23));
  p = __fmul_rn(p, __uint_as_float(static_cast<uint32_t>(rest + 127) << 23));
  if (x > 88.7f) return __uint_as_float(0x7f800000u);
  return -87.3f > x ? 0.0f : p;
}

__device__ __forceinline__ float ExactSigmoid(float x) {
  return 1.0f / __fadd_rn(1.0f, ExactExp(-x));
}

// silu(gate) * up.
__device__ __forceinline__ float ExactSwiGlu(float gate, float up) {
  return __fmul_rn(gate / __fadd_rn(1.0f, ExactExp(-gate)), up);
}

}  // namespace tandem::gpu_worker::cuda
