// Packing whole matrices of a model in memory, for tests: workers load them from files piece by
// piece (expert_loader.h).
#pragma once

#include <algorithm>
#include <vector>

#include "lib/experts/packed_expert.h"
#include "lib/kernels/packed.h"
#include "lib/kernels/row_forms.h"
#include "lib/model/model_weights.h"

namespace tandem {

// The packed matrix lies in `memory`.
inline kernels::PackedMatrix PackWhole(const Matrix& matrix, kernels::AlignedBuffer* memory) {
  kernels::PackedMatrix packed;
  packed.layout =
      kernels::LayoutOf(matrix.view.dtype, matrix.rows(), matrix.cols(), matrix.fp8_block_cols);
  std::byte* data = memory->Reserve(packed.layout.bytes());
  packed.data = data;
  for (int64_t p = 0; p < packed.layout.panels(); ++p) {
    const int64_t first = p * kernels::kPanelRows;
    const int64_t rows = std::min<int64_t>(kernels::kPanelRows, matrix.rows() - first);
    const std::vector<float> scales = BlockScalesOfRows(matrix, first, rows);
    kernels::PackPanel(packed.layout, matrix.view.data + first * matrix.view.row_bytes(), rows,
                       scales.empty() ? nullptr : scales.data(),
                       data + p * packed.layout.panel_bytes);
  }
  return packed;
}

// An expert packed from its tensors, with its memory.
struct PackedCopy {
  explicit PackedCopy(const FfnWeights& weights)
      : expert{PackWhole(weights.gate, &gate), PackWhole(weights.up, &up),
               PackWhole(weights.down, &down)} {}
  kernels::AlignedBuffer gate, up, down;
  PackedExpert expert;
};

}  // namespace tandem
