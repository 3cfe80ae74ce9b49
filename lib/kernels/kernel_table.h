// KernelTable: one set of function pointers per instruction set, chosen once per process. All
// tables compute the same bits, so the choice is about speed only; tests run every table the
// machine supports.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"
#include "lib/kernels/fp8_linear.h"
#include "lib/kernels/linear.h"
#include "lib/kernels/marlin_linear.h"
#include "lib/kernels/panel.h"
#include "lib/kernels/quant.h"
#include "lib/tensor/dtype.h"

namespace tandem::kernels {

// Rows of x that a float linear kernel widens at a time; no instruction set has a larger register
// tile.
inline constexpr int kLinearTileRowsMax = 6;

// Outputs that the kernels of fp8_linear.h and marlin_linear.h decode at a time, at most, and what
// they need for that: a widened tile of rows and decoded weights, rows of whole 32 columns.
inline constexpr int64_t kBlockLinearOutsMax = 64;
constexpr int64_t BlockLinearStride(int64_t cols) { return (cols + 31) / 32 * 32; }
constexpr int64_t BlockLinearScratchFloats(int64_t cols) {
  return BlockLinearStride(cols) * (kLinearTileRowsMax + kBlockLinearOutsMax / 2);
}

// Unpacks one row of `cols` weights (a multiple of the format's block) at an even address `src`.
// Only the first `cols` values are written: UnpackWeights in weights.h pads.
using UnpackRow = void (*)(const std::byte* src, int64_t cols, const UnpackedRow& out);

struct KernelTable {
  const char* isa = nullptr;  // "scalar", "avx2", "avx_vnni", "avx512", "avx512_vnni", "amx"

  // `scratch`: [kLinearTileRowsMax, cols rounded up to 16] f32.
  void (*linear_bf16)(const LinearArgs& args, float* scratch) = nullptr;
  void (*linear_f32)(const LinearArgs& args, float* scratch) = nullptr;  // scratch unused
  float (*dot_f32)(const float* a, const float* b, int64_t n) = nullptr;

  // `scratch`: [BlockLinearScratchFloats(cols)].
  void (*linear_fp8)(const Fp8LinearArgs& args, float* scratch) = nullptr;
  void (*linear_marlin)(const MarlinLinearArgs& args, float* scratch) = nullptr;
  void (*quantize_fp8)(const float* x, int64_t cols, uint16_t* numbers, float* scales) = nullptr;

  void (*exp_shifted)(const float* x, float shift, float* out, int64_t n) = nullptr;
  void (*swiglu)(const float* gate, const float* up, float* out, int64_t n) = nullptr;
  float (*sigmoid)(float x) = nullptr;

  // Quantized weights; null for the float formats. See quant.h.
  UnpackRow unpack[static_cast<int>(DType::kCount)] = {};
  // x [n] f32, n a multiple of 32; may be a part of a row. A block holding a value that is not
  // finite gets the scale NaN.
  void (*quantize_row)(const float* x, int64_t n, const QuantRow& out) = nullptr;

  // One packed panel times rows of activations (panel.h). panel: int8 rows for quantized types,
  // float rows of bf16 values for bf16, f16 and fp8, null for f32. panel_f32: float rows, any type.
  // panel_tiles: row tiles instead of rows; null for f32 and f16, and for bf16 and fp8 where the
  // processor has no tile unit.
  void (*panel[static_cast<int>(DType::kCount)])(const PanelArgs& args) = {};
  void (*panel_f32)(const PanelArgs& args) = nullptr;
  void (*panel_tiles[static_cast<int>(DType::kCount)])(const TileArgs& args) = {};
  // out [columns in whole blocks of the type][16] f32: the panel's exact values.
  void (*unpack_panel)(const PackedLayout& layout, const std::byte* panel, float* out) = nullptr;

  // Rows of bf16 to f32 (exact) and f32 to bf16 (nearest even).
  void (*widen_bf16)(const uint16_t* x, int64_t n, float* out) = nullptr;
  void (*narrow_bf16)(const float* x, int64_t n, uint16_t* out) = nullptr;
  // False when a term lay outside the grid (expert_grid.h).
  bool (*grid_add)(const GridAddArgs& args) = nullptr;
};

// Tables this machine can run, slowest ("scalar") first.
std::span<const KernelTable* const> SupportedTables();

// The table named `isa`, or the fastest when `isa` is empty. INVALID_ARGUMENT names the known ones,
// FAILED_PRECONDITION says that this processor lacks it.
absl::StatusOr<const KernelTable*> FindTable(std::string_view isa);

// The process's table: that of the environment variable TANDEM_ISA, or the fastest. A wrong
// TANDEM_ISA ends the process with one sentence and exit code 2 (programs call CheckIsa first to
// say it their way).
const KernelTable& ActiveTable();

// OK when TANDEM_ISA is unset or names a supported table.
absl::Status CheckIsa();

}  // namespace tandem::kernels
