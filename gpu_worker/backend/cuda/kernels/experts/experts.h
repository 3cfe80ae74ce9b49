// Routed experts on the device with the bits of the expert workers: weights are the packed panels
// of lib/kernels/packed.h, copied as they are, and the arithmetic is that of lib/kernels/panel.h,
// operation by operation. Integer sums of quantized weights come from tensor cores, which are exact
// and therefore free to add in any order; everything that rounds is done per output in the order
// that the CPU has. What may differ is the bits of a NaN, and see FmaFtz (simt/numbers.h) for
// results at the edge of the subnormal numbers.
//
// One launch computes many products: tiles of up to eight rows times one matrix, whatever expert it
// belongs to. Nothing here allocates or synchronizes. Pointers are to device memory.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "gpu_worker/backend/cuda/device/device.h"
#include "lib/kernels/packed.h"

namespace tandem::gpu_worker::cuda {

// Rows that share a panel's unpacked weights: the columns of one tensor-core product.
inline constexpr int kExpertTileRows = 8;

// Rows of quantized activations (lib/kernels/quant.h) lie in records of 256 columns: the codes, the
// scales of its eight blocks (f32), and each block's two sums of sixteen codes (int16). What is
// past the row's end is zero.
inline constexpr int kRecordCols = 256;
inline constexpr int kRecordScales = kRecordCols;
inline constexpr int kRecordSums = kRecordScales + kRecordCols / 32 * 4;
inline constexpr int kRecordBytes = kRecordSums + kRecordCols / 32 * 4;
constexpr int64_t ExpertRecords(int64_t cols) { return (cols + kRecordCols - 1) / kRecordCols; }
constexpr int64_t QuantRowBytes(int64_t cols) { return ExpertRecords(cols) * kRecordBytes; }

// Rows of floats: per 32 columns the sixteen even ones, then the odd ones; zeros past the end.
constexpr int64_t FloatRowValues(int64_t cols) { return ExpertRecords(cols) * kRecordCols; }

// The forms to write; null: not wanted.
struct ExpertRowForms {
  std::byte* quantized = nullptr;  // [rows, QuantRowBytes(cols)]; cols a multiple of 32
  float* floats = nullptr;         // [rows, FloatRowValues(cols)]
  bool round_to_bf16 = false;      // the floats
};

struct ExpertRowsArgs {
  const void* x = nullptr;  // [rows, cols] bf16 or f32
  bool x_is_f32 = false;
  int64_t rows = 0, cols = 0;
  ExpertRowForms out;
};
void PrepareExpertRows(const ExpertRowsArgs& args, Stream stream);

// The same for silu(gate) * up.
struct GatedRowsArgs {
  const float* gate = nullptr;  // [rows, stride], like up
  const float* up = nullptr;
  int64_t stride = 0, rows = 0, cols = 0;
  ExpertRowForms out;
};
void GateExpertRows(const GatedRowsArgs& args, Stream stream);

// Rows [first, first + rows) of a list of pairs times one matrix.
struct ProductTile {
  const std::byte* panels = nullptr;
  float* y = nullptr;  // ProductTarget::kStore: [pairs, y_stride], from the first pair on
  uint32_t first = 0;
  uint32_t rows = 0;  // 1..kExpertTileRows
};

enum class ProductTarget {
  kStore,   // y[pair][output] = product
  kGrid,    // its term, weighted and on the grid of its row (lib/kernels/expert_grid.h), is added
  kWeighed  // out[slot][output] = product * weight
};

struct ExpertProductsArgs {
  kernels::PackedLayout layout;  // of every tile's matrix
  bool exact = false;            // f32 rows, even where weights are quantized
  const ProductTile* tiles = nullptr;
  int64_t tile_count = 0;
  int rows_max = kExpertTileRows;   // of any tile
  const void* x = nullptr;          // rows in the form that TakesQuantRows names
  const uint32_t* x_row = nullptr;  // [pairs] row of x; null: the pair's own number
  ProductTarget target = ProductTarget::kStore;
  int64_t y_stride = 0;
  // Of kGrid and kWeighed; [pairs].
  const uint32_t* to = nullptr;  // row of sums, or slot of out
  const float* weights = nullptr;
  // Of kGrid; sums and flags are added to and must be zero at first.
  const float* inverse_steps = nullptr;  // [rows]
  float limit = 0;
  int32_t* sums = nullptr;   // [rows, layout.rows]
  uint8_t* flags = nullptr;  // [rows]
  float* out = nullptr;      // of kWeighed: [slots, layout.rows]
};

// Whether the rows are quantized ones, else float rows.
bool TakesQuantRows(DType type, bool exact);

// UNIMPLEMENTED in one sentence for a type no kernel here takes.
absl::Status CheckExpertType(DType type);

void MultiplyExpertTiles(const ExpertProductsArgs& args, Stream stream);

}  // namespace tandem::gpu_worker::cuda
