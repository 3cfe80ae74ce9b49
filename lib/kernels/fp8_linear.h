// Linear layers in fp8: y = x W^T with e4m3 weights that share a scale in blocks of 128x128 and
// e4m3 inputs that share one in runs of 128 of a row, as DeepSeek-V3 is trained (arXiv 2412.19437,
// section 3.3). The arithmetic, which a CUDA kernel is to be compared with:
//
//   inputs    scale_x = max|x| / 448 over a run (f32 division), number = e4m3(x / scale_x), to
//             nearest even, saturating. A run whose scale would be below f32's smallest normal
//             number is zeros with scale 0; a run with a value that is not finite gets the scale
//             NaN, which spoils the outputs of the row and no other.
//   products  of two e4m3 numbers are exact in f32 (4 + 4 significant bits).
//   sums      block by block in ascending order; within a block lane l of 16 adds the products of
//             k = l, l + 16, ..., l + 112 in that order to zero, then
//             total[l] = fma(part[l], scale_x * scale_w, total[l]), where the product of the scales
//             is rounded to f32 first: the promotion every 128 products. After the last block one
//             fixed tree adds the 16 lanes (linear.h). A tensor core adds a block's 128 products in
//             another order and with fewer bits; it is to agree within the bound of
//             fp8_linear_test.cc.
//   edges     the last block may be short along both dimensions.
//
// A row's bits do not depend on the other rows, the range of outputs or the instruction set.
#pragma once

#include <cstdint>

namespace tandem::kernels {

inline constexpr int64_t kFp8Block = 128;
inline constexpr float kFp8Max = 448.0f;  // the largest e4m3 number

constexpr int64_t Fp8Blocks(int64_t n) { return (n + kFp8Block - 1) / kFp8Block; }

// Bytes from one row of codes to the next: decoding reads 32 at a time.
constexpr int64_t Fp8RowBytes(int64_t cols) { return (cols + 31) / 32 * 32; }

struct Fp8LinearArgs {
  const uint16_t* x = nullptr;  // [rows, cols] e4m3 numbers as bf16, x_stride values apart
  int64_t x_stride = 0;
  const float* x_scales = nullptr;  // [rows, Fp8Blocks(cols)]
  const uint8_t* w = nullptr;       // [outputs, Fp8RowBytes(cols)] e4m3, no NaN, padded with zeros
  const float* w_scales = nullptr;  // [Fp8Blocks(outputs), Fp8Blocks(cols)]
  float* y = nullptr;               // [rows, y_stride] f32
  int64_t y_stride = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t n_begin = 0;  // outputs [n_begin, n_end) are written to y[r * y_stride + n]
  int64_t n_end = 0;
};

void LinearFp8(const Fp8LinearArgs& args);

// Quantizes one row of inputs: `numbers` [cols] e4m3 numbers as bf16, `scales` [Fp8Blocks(cols)].
void QuantizeFp8Inputs(const float* x, int64_t cols, uint16_t* numbers, float* scales);

// Quantizes up to 128 rows of weights, one row of blocks: w [rows, cols] f32, finite; `codes`
// [rows, Fp8RowBytes(cols)] with its padding, `scales` [Fp8Blocks(cols)]. scale = max|w| / 448,
// code = e4m3(w / scale), both as for inputs.
void QuantizeFp8Weights(const float* w, int64_t rows, int64_t cols, uint8_t* codes, float* scales);

}  // namespace tandem::kernels
