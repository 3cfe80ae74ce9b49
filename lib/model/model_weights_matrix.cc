#include <algorithm>

#include "lib/base/check.h"
#include "lib/model/model_weights.h"
#include "lib/tensor/codec.h"

namespace tandem {
namespace {

// f32 scale of block (row_block, col_block); the bytes of a safetensors file may lie at any
// address.
float ScaleAt(const TensorView& scales, int64_t row_block, int64_t col_block) {
  float value = 0.0f;
  DequantizeRow(DType::kF32, scales.data + (row_block * scales.cols() + col_block) * sizeof(float),
                1, &value);
  return value;
}

}  // namespace

void DequantizeMatrixRow(const Matrix& matrix, int64_t row, float* dst) {
  TANDEM_CHECK_GE(row, 0);
  TANDEM_CHECK_LT(row, matrix.rows());
  const int64_t cols = matrix.cols();
  DequantizeRow(matrix.view.dtype, matrix.view.data + row * matrix.view.row_bytes(), cols, dst);
  if (!matrix.scale_inv.has_value()) return;
  const int64_t row_block = row / matrix.fp8_block_rows;
  for (int64_t begin = 0; begin < cols; begin += matrix.fp8_block_cols) {
    const float scale = ScaleAt(*matrix.scale_inv, row_block, begin / matrix.fp8_block_cols);
    const int64_t end = std::min(begin + matrix.fp8_block_cols, cols);
    for (int64_t col = begin; col < end; ++col) dst[col] *= scale;
  }
}

std::vector<float> BlockScalesOfRows(const Matrix& matrix, int64_t first, int64_t rows) {
  if (!matrix.scale_inv.has_value()) return {};
  const TensorView& view = *matrix.scale_inv;
  std::vector<float> scales(rows * view.cols());
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t block = (first + r) / matrix.fp8_block_rows;
    DequantizeRow(DType::kF32, view.data + block * view.row_bytes(), view.cols(),
                  scales.data() + r * view.cols());
  }
  return scales;
}

int64_t MatrixBytes(const Matrix& matrix) {
  return matrix.view.size_bytes + (matrix.scale_inv.has_value() ? matrix.scale_inv->size_bytes : 0);
}

int64_t PlacedBytes(const FfnWeights& expert) {
  return MatrixBytes(expert.gate) + MatrixBytes(expert.up) + MatrixBytes(expert.down);
}

}  // namespace tandem
