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
  const std::byte* panel = nullptr;  // the first of `panels` one after the other, aligned
  int64_t panels = 1;
  const QuantRow* const* quant_x = nullptr;  // [rows] int8 kernels
  const float* const* float_x = nullptr;  // [rows] others; PaddedFloats(cols) values, zero-padded
  int64_t rows = 0;
  float* y = nullptr;  // y[r * y_stride + 16 * p + o]: all of them written
  int64_t y_stride = 0;
  std::byte* scratch = nullptr;  // PanelScratchBytes(layout), aligned
};

// Floats in a row of x: whole chunks.
constexpr int64_t PaddedFloats(int64_t cols) {
  return (cols + kBlockCols - 1) / kBlockCols * kBlockCols;
}

// Room for one panel's values: sixteen f32 a column, columns in whole super blocks.
constexpr int64_t PanelScratchBytes(const PackedLayout& layout) {
  return (layout.cols + 255) / 256 * 256 * kLineBytes;
}

// Columns covered by one scale of an fp8 panel.
constexpr int64_t Fp8ScaleCols(const PackedLayout& layout) {
  return layout.fp8_cols > 0 ? layout.fp8_cols : kFp8ColsDefault;
}

// Bytes of a bf16, f16 or fp8 value.
constexpr int InfoHalfBytes(DType type) { return type == DType::kF8E4M3 ? 1 : 2; }

// --- Row tiles: sixteen rows of activations side by side, for many rows at once. A tile of int8
// rows holds for every block of 32 columns 16 x 32 codes; the rows' sixteen scales (f32); their
// sums of the 32 columns, of the first sixteen, of the others (f32, quant.h); and the same three as
// sums of codes (i32). A tile of bf16 rows holds for every chunk of 32 columns 16 x 32 values.

inline constexpr int kTileRows = 16;
inline constexpr int kTileScalesOffset = kTileRows * kBlockCols;
inline constexpr int kTileSumsOffset = kTileScalesOffset + kLineBytes;
inline constexpr int kTileCodeSumsOffset = kTileSumsOffset + 3 * kLineBytes;
inline constexpr int kQuantTileBlockBytes = kTileCodeSumsOffset + 3 * kLineBytes;
inline constexpr int kBf16TileChunkBytes = kTileRows * kLineBytes;

constexpr int64_t QuantTileBytes(int64_t cols) {
  return PaddedCodes(cols) / kBlockCols * kQuantTileBlockBytes;
}
constexpr int64_t Bf16TileBytes(int64_t cols) {
  return PaddedFloats(cols) / kBlockCols * kBf16TileChunkBytes;
}

// Panels that may be multiplied in one call.
inline constexpr int64_t kTilePanelsMax = 4;

struct TileArgs {
  const PackedLayout* layout = nullptr;
  const std::byte* panel = nullptr;  // the first of `panels` that lie one after the other
  int64_t panels = 1;                // 1..kTilePanelsMax
  const std::byte* tiles = nullptr;  // row tiles, one after the other, aligned to 64
  int64_t rows = 0;                  // in all of them
  // y[r * y_stride + 16 * p + o]: output o of panel p; has room for whole tiles of rows, and what
  // is past `rows` is overwritten with anything.
  float* y = nullptr;
  int64_t y_stride = 0;
  std::byte* scratch = nullptr;  // TileScratchBytes(layout), aligned
};

// Room for a chunk of 512 columns of each panel, unpacked (768 bytes per 32 columns at most), or
// for one fp8 panel as bf16 with its scales.
constexpr int64_t TileScratchBytes(const PackedLayout& layout) {
  const int64_t chunks = kTilePanelsMax * 16 * 768;
  const int64_t fp8 = PaddedFloats(layout.cols) * 32 + PaddedFloats(layout.cols) * 2;
  return fp8 > chunks ? fp8 : chunks;
}

}  // namespace tandem::kernels
