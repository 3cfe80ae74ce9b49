// The scalar codec: for every format the exact value of every code, in plain portable C++. It is
// the oracle of all kernels, so it is written for clarity and checked against the gguf package's
// dequantization, never for speed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "lib/tensor/dtype.h"

namespace tandem {

// Writes the `cols` values of one row stored at `src` (RowBytes(type, cols) bytes, any alignment)
// to `dst` [cols] f32. Types: all but kI32. Products of scales are evaluated in f32 in the order
// the gguf package uses, so results are equal bit for bit.
void DequantizeRow(DType type, const std::byte* src, int64_t cols, float* dst);

// Rounds `src` [cols] f32 into a row of `type`, to nearest even where a rounding is needed. Types:
// kF32, kF16, kBF16, kF8E4M3 (saturating at 448), kQ8_0. UNIMPLEMENTED names any other type: k- and
// i-quants come from llama.cpp's quantizer.
absl::Status QuantizeRow(DType type, const float* src, int64_t cols, std::byte* dst);

// Fails with DATA_LOSS when a block of the row holds a scale that is not finite (the index of the
// block is named), or an fp8 value is NaN. Codes and grid indices are in range by construction of
// the formats.
absl::Status ValidateRow(DType type, const std::byte* src, int64_t cols);

float F16ToF32(uint16_t bits);
uint16_t F32ToF16(float value);  // to nearest even, overflow to infinity
float BF16ToF32(uint16_t bits);
uint16_t F32ToBF16(float value);   // to nearest even, NaN stays a quiet NaN
float F8E4M3ToF32(uint8_t bits);   // 0x7F and 0xFF are NaN; there is no infinity
uint8_t F32ToF8E4M3(float value);  // to nearest even, saturating at +-448

}  // namespace tandem
