// Packed weights (packed.h) times rows of activations: what the kernels of every instruction set
// compute, bit for bit. An output never depends on how many rows or outputs are computed with it.
//
// Quantized weights, int8 rows (quant.h). For each block of 32 columns in order, and in it for each
// group of columns with one weight scale (32 or 16): the integer sum of products, exactly; then
// acc = fma(float(sum), weight scale * row scale, acc); then, in formats with minima,
// acc = fma(-minimum, row sum of the group, acc).
//
// bf16, f16 and fp8 weights, rows of bf16 values. For each chunk of 32 columns in order: one chain
// of fma over the even columns and one over the odd ones, both from zero; then
// acc = acc + (even + odd), with denormals as zeros throughout: what one step of the AMX tile unit
// computes (Intel SDM, TDPBF16PS). fp8 does so from zero for every block of columns with one scale,
// then acc = fma(sum of the block, scale, acc).
//
// f32 rows (the strict mode, and f32 weights): the weights' exact f32 values; four chains of fma,
// column k in chain k mod 4; then (0 + 1) + (2 + 3).
#pragma once

#include <cstddef>
#include <cstdint>

#include "lib/kernels/packed.h"
#include "lib/kernels/packed_form.h"
#include "lib/kernels/quant.h"

namespace tandem::kernels {

struct PanelArgs {
  const PackedLayout* layout = nullptr;
  const std::byte* panel = nullptr;            // aligned to kPackedAlign
  const QuantRow* const* quant_x = nullptr;    // [rows] int8 kernels
  const float* const* float_x = nullptr;       // [rows] others; PaddedFloats(cols) values, zero-padded
  int64_t rows = 0;
  float* y = nullptr;                          // y[r * y_stride + o], o < 16: all of them written
  int64_t y_stride = 0;
  std::byte* scratch = nullptr;                // PanelScratchBytes(layout), aligned
};

// Floats in a row of x: whole chunks.
constexpr int64_t PaddedFloats(int64_t cols) {
  return (cols + kBlockCols - 1) / kBlockCols * kBlockCols;
}

// Room for one panel unpacked whichever way: at most sixteen f32 a column, columns in whole super
// blocks.
constexpr int64_t PanelScratchBytes(const PackedLayout& layout) {
  return (layout.cols + 255) / 256 * 256 * kLineBytes;
}

// Columns covered by one scale of an fp8 panel.
constexpr int64_t Fp8ScaleCols(const PackedLayout& layout) {
  return layout.fp8_cols > 0 ? layout.fp8_cols : kFp8ColsDefault;
}

// Bytes of a bf16, f16 or fp8 value.
constexpr int InfoHalfBytes(DType type) { return type == DType::kF8E4M3 ? 1 : 2; }

// --- Row tiles: sixteen rows of activations side by side, for instruction sets that multiply
// tiles. A tile of int8 rows holds for every block of 32 columns 16 x 32 codes, then the rows'
// sixteen scales, then their sums: of the 32 columns, of the first sixteen, of the others (f32). A
// tile of bf16 rows holds for every chunk of 32 columns 16 x 32 values.

inline constexpr int kTileRows = 16;
inline constexpr int kTileSumsOffset = 512 + 64;
inline constexpr int kQuantTileBlockBytes = 512 + 64 + 3 * 64;
inline constexpr int kBf16TileChunkBytes = 1024;

constexpr int64_t QuantTileBytes(int64_t cols) {
  return PaddedCodes(cols) / kBlockCols * kQuantTileBlockBytes;
}
constexpr int64_t Bf16TileBytes(int64_t cols) {
  return PaddedFloats(cols) / kBlockCols * kBf16TileChunkBytes;
}

struct TileArgs {
  const PackedLayout* layout = nullptr;
  const std::byte* panel = nullptr;
  const std::byte* tiles = nullptr;  // row tiles, one after the other, aligned to 64
  int64_t rows = 0;                  // in all of them; rows past the end are computed and dropped
  float* y = nullptr;
  int64_t y_stride = 0;
  std::byte* scratch = nullptr;
};

}  // namespace tandem::kernels
