#include "gpu_worker/backend/host/read_weights.h"

#include "gpu_worker/backend/host/bf16.h"
#include "lib/base/check.h"
#include "lib/kernels/fp8_linear.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker {
namespace {

// Rows [begin, begin + rows) of a matrix.
std::vector<float> ReadRows(const Matrix& matrix, int64_t begin, int64_t rows) {
  std::vector<float> values(rows * matrix.cols());
  for (int64_t r = 0; r < rows; ++r) {
    DequantizeMatrixRow(matrix, begin + r, values.data() + r * matrix.cols());
  }
  return values;
}

}  // namespace

std::vector<float> ReadValues(const TensorView& view) {
  std::vector<float> values(view.rows() * view.cols());
  for (int64_t r = 0; r < view.rows(); ++r) {
    DequantizeRow(view.dtype, view.data + r * view.row_bytes(), view.cols(),
                  values.data() + r * view.cols());
  }
  return values;
}

std::vector<float> ReadNorm(Precision precision, const TensorView& view) {
  std::vector<float> values = ReadValues(view);
  if (precision == Precision::kBf16) {
    for (float& value : values) value = RoundBf16(value);
  }
  return values;
}

std::vector<float> ReadHeadKeys(const ModelConfig& config, const AttentionWeights& weights,
                                int64_t head) {
  const int64_t nope = config.qk_nope_head_dim, latent = config.kv_lora_rank;
  if (weights.kv_b.has_value()) {
    return ReadRows(*weights.kv_b, head * (nope + config.v_head_dim), nope);
  }
  TANDEM_CHECK(weights.k_b.has_value());
  const std::vector<float> absorbed = ReadValues(weights.k_b->Slice(head));  // [latent, nope]
  std::vector<float> values(absorbed.size());
  for (int64_t r = 0; r < nope; ++r) {
    for (int64_t c = 0; c < latent; ++c) values[r * latent + c] = absorbed[c * nope + r];
  }
  return values;
}

std::vector<float> ReadHeadValues(const ModelConfig& config, const AttentionWeights& weights,
                                  int64_t head) {
  const int64_t nope = config.qk_nope_head_dim, v = config.v_head_dim;
  if (weights.kv_b.has_value()) return ReadRows(*weights.kv_b, head * (nope + v) + nope, v);
  TANDEM_CHECK(weights.v_b.has_value());
  return ReadValues(weights.v_b->Slice(head));
}

bool IsFp8InBlocks(const Matrix& matrix) {
  return matrix.view.dtype == DType::kF8E4M3 && matrix.scale_inv.has_value() &&
         matrix.fp8_block_rows == kernels::kFp8Block && matrix.fp8_block_cols == kernels::kFp8Block;
}

}  // namespace tandem::gpu_worker
