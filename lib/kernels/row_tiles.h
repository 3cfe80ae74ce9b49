// Row tiles (panel.h): rows of activations laid side by side for instruction sets that multiply
// tiles.
#pragma once

#include <cstddef>
#include <cstdint>

#include "lib/kernels/quant.h"

namespace tandem::kernels {

// Copies blocks [first_block, first_block + blocks) of one quantized row into row `row` (0..15) of
// the tile at `tile`. A block has 32 columns.
void PutQuantRow(const QuantRow& x, int64_t first_block, int64_t blocks, int64_t row,
                 std::byte* tile);

// Copies columns [first, first + cols) of a row of bf16 values held as f32, first a multiple of 32,
// into row `row` of a tile of bf16 rows; the last chunk is padded with zeros.
void PutBf16Row(const float* x, int64_t first, int64_t cols, int64_t row, std::byte* tile);

}  // namespace tandem::kernels
