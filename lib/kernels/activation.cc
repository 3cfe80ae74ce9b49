#include "lib/kernels/activation.h"

#include "lib/kernels/kernel_table.h"

// The polynomial, its degree (7) and its error (within 2 units in the last place of the true value,
// checked by the test) are described in body/activation.inl.

namespace tandem::kernels {

float Exp(float x) {
  float result;
  ActiveTable().exp_shifted(&x, 0.0f, &result, 1);
  return result;
}

void ExpShifted(const float* x, float shift, float* out, int64_t n) {
  ActiveTable().exp_shifted(x, shift, out, n);
}

void SwiGlu(const float* gate, const float* up, float* out, int64_t n) {
  ActiveTable().swiglu(gate, up, out, n);
}

float Sigmoid(float x) { return ActiveTable().sigmoid(x); }

}  // namespace tandem::kernels
