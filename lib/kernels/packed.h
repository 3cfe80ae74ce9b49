// Packed weights: the layout expert weights are held in, chosen for speed at any number of rows.
//
// A matrix [rows, cols] is cut into panels of sixteen output rows. A panel is one run of memory,
// read strictly from its first byte to its last: lines of 64 bytes in which the sixteen rows lie
// side by side (four codes of each, or two bf16 values), preceded every few blocks by their scales.
// So a register holds sixteen outputs and no sum over lanes is ever needed. Files keep each row
// apart, at addresses no vector unit likes; packing happens once, while loading, and loses nothing:
// UnpackPanel gives the codec's values bit for bit. docs/packed_weights.md draws the layouts.
//
// Packed sizes are the stored sizes but for: trits of iq1_s in two bits (iq1_m and iq2 in three,
// iq3 in four), eight-bit scale codes where files squeeze them into six, and padding.
#pragma once

#include <cstddef>
#include <cstdint>

#include "lib/tensor/dtype.h"

namespace tandem::kernels {

inline constexpr int kPanelRows = 16;
inline constexpr int kPackedAlign = 64;  // of a panel: one cache line, one widest register

// The geometry of a packed matrix; a value, cheap to copy.
struct PackedLayout {
  DType type = DType::kF32;
  int64_t rows = 0;         // outputs
  int64_t cols = 0;         // contraction length
  int64_t fp8_cols = 0;     // fp8 with block scales: columns per scale; 0 otherwise
  int64_t panel_bytes = 0;  // a multiple of kPackedAlign

  int64_t panels() const { return (rows + kPanelRows - 1) / kPanelRows; }
  int64_t bytes() const { return panels() * panel_bytes; }
};

// `type`, `cols` and `fp8_cols` have passed CheckWeightType (weights.h).
PackedLayout LayoutOf(DType type, int64_t rows, int64_t cols, int64_t fp8_cols = 0);

// Packs rows [first, first + rows) of a matrix into one panel, rows <= 16; missing rows become
// zeros. `src`: the rows as a file holds them, one after the other, any alignment. `fp8_scales`:
// [rows][ceil(cols / fp8_cols)] f32, null when the layout has none. `panel`: panel_bytes, aligned
// to kPackedAlign, every byte of it is written. The rows' values have passed ValidateRow
// (lib/tensor/codec.h).
void PackPanel(const PackedLayout& layout, const std::byte* src, int64_t rows,
               const float* fp8_scales, std::byte* panel);

// The panel's values as f32, out [16][cols]: what DequantizeRow of the codec gives (times the block
// scale for fp8), bit for bit.
void UnpackPanel(const PackedLayout& layout, const std::byte* panel, float* out);

// A packed matrix in memory somebody else owns.
struct PackedMatrix {
  PackedLayout layout;
  const std::byte* data = nullptr;  // [panels][panel_bytes]

  const std::byte* panel(int64_t p) const { return data + p * layout.panel_bytes; }
};

}  // namespace tandem::kernels
