// Pointwise functions with one definition for every instruction set: the same polynomial for exp
// everywhere, so that answers do not depend on a libm or a vector width.
#pragma once

#include <cstdint>

namespace tandem::kernels {

// exp(x) in f32: range reduction by ln 2 and one polynomial (its degree and error are stated in
// activation.cc). Inputs above 88.7 give infinity, below -87.3 zero.
float Exp(float x);

// out[i] = exp(x[i] - shift); bit-equal to Exp of each element.
void ExpShifted(const float* x, float shift, float* out, int64_t n);

// out[i] = silu(gate[i]) * up[i], silu(v) = v / (1 + exp(-v)). In place is allowed.
void SwiGlu(const float* gate, const float* up, float* out, int64_t n);

// 1 / (1 + exp(-x)).
float Sigmoid(float x);

}  // namespace tandem::kernels
