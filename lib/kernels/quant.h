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
// panel.h says how they are multiplied.
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
  int8_t* codes = nullptr;       // [PaddedCodes(cols)]
  float* scales = nullptr;       // [PaddedCodes(cols) / 32]
  int32_t* code_sums = nullptr;  // [PaddedCodes(cols) / 16]: sum of the 16 codes
  float* sums = nullptr;         // [PaddedCodes(cols) / 16]: scale * code sum, rounded once
  float* block_sums = nullptr;   // [PaddedCodes(cols) / 32]: scale * (sum of the 32 codes)
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
