// Linear layers on float weights: y = x W^T with f32 accumulation in one fixed order over K,
// whatever the number of rows, the range of outputs or the instruction set. Lane l of 16 sums the
// products of k = l, l+16, l+32, ... in that order; then a fixed tree adds the lanes. A product of
// two bf16 values is exact in f32, so fused and unfused multiply-add agree for bf16; f32 uses fused
// multiply-add on every instruction set.
#pragma once

#include <cstdint>

namespace tandem::kernels {

// y[i * y_stride + j] for rows i in [0, rows), outputs j in [n_begin, n_end).
struct LinearArgs {
  const void* x = nullptr;  // [rows, cols] bf16 or f32, row-major, x_stride values apart
  int64_t x_stride = 0;
  const void* w = nullptr;  // [n, cols] bf16 or f32, row-major, contiguous
  float* y = nullptr;       // [rows, y_stride] f32
  int64_t y_stride = 0;
  int64_t rows = 0;
  int64_t cols = 0;  // any positive number
  int64_t n_begin = 0;
  int64_t n_end = 0;
};

void LinearBf16(const LinearArgs& args);  // x bf16, w bf16
void LinearF32(const LinearArgs& args);   // x f32, w f32

// One dot product with the same order over K as above.
float DotF32(const float* a, const float* b, int64_t n);

}  // namespace tandem::kernels
