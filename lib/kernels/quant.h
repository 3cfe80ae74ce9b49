// Block-quantized weights times int8 activations: the forms both are brought into, so that each
// weight format costs one small unpacking body and all share one dot product.
//
// Weights: value[k] = scales[k / 16] * codes[k] - mins[k / 16]. Every format's codes fit int8 and
// its scales and minima are exact in f32 (iq1's values g +- 1/8 become codes 8 g +- 1 with an
// eighth of the scale), so nothing is lost.
//
// Activations: value[k] ~ scales[k / 32] * codes[k], codes in [-127, 127], scale = max|x| / 127,
// rounded to nearest even.
//
// The dot product, the same on every instruction set. For each 64 values lane l of 16 adds the
// integer products of k = 4l .. 4l+3 exactly, then acc[l] = fma(float(sum), w_scale * x_scale,
// acc[l]) in the order of k; formats with minima then do acc[l] = fma(-min, x_sum, acc[l]) over the
// groups of 16 values g = l, l + 16, ...; one fixed tree adds the lanes.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tandem::kernels {

inline constexpr int kActivationBlock = 32;  // activations per scale
inline constexpr int kWeightGroup = 16;      // weights per scale in the unpacked form
inline constexpr int kCodeChunk = 64;  // rows of codes are padded with zeros to a multiple of this

constexpr int64_t PaddedCodes(int64_t cols) {
  return (cols + kCodeChunk - 1) / kCodeChunk * kCodeChunk;
}

// One row of unpacked weights; all arrays belong to the caller and are 64-byte aligned for speed
// only.
struct UnpackedRow {
  int8_t* codes = nullptr;  // [PaddedCodes(cols)]
  float* scales = nullptr;  // [PaddedCodes(cols) / 16]
  float* mins = nullptr;    // [PaddedCodes(cols) / 16]; written by formats with minima only
};

// One row of quantized activations.
struct QuantRow {
  int8_t* codes = nullptr;  // [PaddedCodes(cols)]
  float* scales = nullptr;  // [PaddedCodes(cols) / 32]
  float* sums = nullptr;    // [PaddedCodes(cols) / 16]: scale * (sum of the 16 codes), rounded once
};

struct QuantDotArgs {
  int64_t cols_padded = 0;         // PaddedCodes of the contraction length
  const UnpackedRow* w = nullptr;  // [outs]
  int64_t outs = 0;
  bool has_mins = false;
  const QuantRow* x = nullptr;  // [rows]
  int64_t rows = 0;
  float* y = nullptr;  // y[r * y_stride + o]
  int64_t y_stride = 0;
};

// Weighs one expert's output row and adds it to an integer row on the grid of expert_grid.h.
struct GridAddArgs {
  const float* y = nullptr;  // [n] an expert's outputs
  int64_t n = 0;
  float weight = 0.0f;        // router weight
  float inverse_step = 0.0f;  // GridStep(-s)
  float limit = 0.0f;         // GridLimit(top_k)
  int32_t* sums = nullptr;    // [n], added to
};

}  // namespace tandem::kernels
