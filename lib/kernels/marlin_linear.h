// Linear layers with int4 or int8 weights and bf16 inputs, in the arithmetic of the Marlin kernels
// (IST-DASLab/marlin and its bf16 descendants): y = x W^T where
//
//   scale   one bf16 number for `group` (128 or 64) inputs of one output, symmetric: bf16(max|w| /
//           (2^(bits-1) - 0.5)), so that the largest magnitude lies half way between the last
//           codes of the two signs. bf16 and not f16, because Marlin's scales have the type of the
//           inputs and DeepSeek's activations leave f16.
//   code    round(w / scale) to nearest even, clamped to [-2^(bits-1), 2^(bits-1) - 1], stored plus
//           2^(bits-1): uint4b8 and uint8b128. A group whose scale rounds to zero is all zeros.
//   weight  bf16(code * scale): the code is exact in bf16 and the product is rounded to bf16, to
//           nearest even, before it meets an input; so the kernels multiply fragments.
//   sums    f32 over bf16 products, in the order of linear.h: the result is LinearBf16's on these
//           weights, bit for bit.
//
// The last group may be short. Marlin's own layout for the GPU is in marlin_pack.h; here a row's
// codes lie in order, for the CPU.
#pragma once

#include <cstdint>

namespace tandem::kernels {

struct MarlinForm {
  int bits = 4;     // 4 or 8
  int group = 128;  // 128 or 64

  int64_t Groups(int64_t cols) const { return (cols + group - 1) / group; }
  // Bytes from one row of codes to the next: whole groups of 32 codes.
  int64_t RowBytes(int64_t cols) const { return (cols + 31) / 32 * 32 * bits / 8; }
};

struct MarlinLinearArgs {
  MarlinForm form;
  const uint16_t* x = nullptr;  // [rows, cols] bf16, x_stride values apart
  int64_t x_stride = 0;
  const uint8_t* w = nullptr;          // [outputs, form.RowBytes(cols)], see StoreMarlinRow
  const uint16_t* w_scales = nullptr;  // [outputs, form.Groups(cols)] bf16
  float* y = nullptr;                  // [rows, y_stride] f32
  int64_t y_stride = 0;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t n_begin = 0;  // outputs [n_begin, n_end) are written to y[r * y_stride + n]
  int64_t n_end = 0;
};

void LinearMarlin(const MarlinLinearArgs& args);

// Quantizes the weights of one output: w [cols] f32, finite; `codes` [cols], one a byte, biased;
// `scales` [form.Groups(cols)] bf16.
void QuantizeMarlinRow(const MarlinForm& form, const float* w, int64_t cols, uint8_t* codes,
                       uint16_t* scales);

// One row of codes as LinearMarlin reads them, [form.RowBytes(cols)]: bytes, or for int4 sixteen
// bytes for 32 codes, byte i holding code i and, in its high half, code i + 16. Padded with the
// code of zero.
void StoreMarlinRow(const MarlinForm& form, const uint8_t* codes, int64_t cols, uint8_t* row);
void LoadMarlinRow(const MarlinForm& form, const uint8_t* row, int64_t cols, uint8_t* codes);

// The weight of a biased code, as bf16 bits.
uint16_t MarlinWeight(const MarlinForm& form, uint8_t code, uint16_t scale);

}  // namespace tandem::kernels
