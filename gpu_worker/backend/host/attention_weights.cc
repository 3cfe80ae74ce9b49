#include "gpu_worker/backend/host/attention_weights.h"

#include <algorithm>

#include "lib/base/check.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker {
namespace {

// A small dense matrix, row-major.
struct F32Matrix {
  int64_t rows = 0, cols = 0;
  std::vector<float> values;  // [rows, cols]
};

F32Matrix Transposed(const F32Matrix& m) {
  F32Matrix t{m.cols, m.rows, std::vector<float>(m.values.size())};
  for (int64_t r = 0; r < m.rows; ++r) {
    for (int64_t c = 0; c < m.cols; ++c) t.values[c * m.rows + r] = m.values[r * m.cols + c];
  }
  return t;
}

F32Matrix ReadRows(const Matrix& matrix, int64_t begin, int64_t rows) {
  F32Matrix m{rows, matrix.cols(), std::vector<float>(rows * matrix.cols())};
  for (int64_t r = 0; r < rows; ++r) {
    DequantizeMatrixRow(matrix, begin + r, m.values.data() + r * m.cols);
  }
  return m;
}

F32Matrix ReadView(const TensorView& view) {
  F32Matrix m{view.rows(), view.cols(), std::vector<float>(view.rows() * view.cols())};
  for (int64_t r = 0; r < m.rows; ++r) {
    DequantizeRow(view.dtype, view.data + r * view.row_bytes(), m.cols,
                  m.values.data() + r * m.cols);
  }
  return m;
}

HostLinear ToLinear(Precision precision, const F32Matrix& m) {
  return HostLinear(precision, m.rows, m.cols, [&](int64_t r, float* dst) {
    std::copy_n(m.values.data() + r * m.cols, m.cols, dst);
  });
}

}  // namespace

HeadProjections LoadHeadProjections(Precision precision, AttentionKernel kernel,
                                    const ModelConfig& config, const AttentionWeights& weights,
                                    const ShardRange& own_heads) {
  const int64_t nope = config.qk_nope_head_dim, v = config.v_head_dim;
  TANDEM_CHECK(weights.kv_b.has_value() || (weights.k_b.has_value() && weights.v_b.has_value()));
  HeadProjections heads;
  for (int64_t h = own_heads.begin; h < own_heads.end; ++h) {
    F32Matrix keys, values;
    if (weights.kv_b.has_value()) {
      keys = ReadRows(*weights.kv_b, h * (nope + v), nope);
      values = ReadRows(*weights.kv_b, h * (nope + v) + nope, v);
    } else {
      keys = Transposed(ReadView(weights.k_b->Slice(h)));
      values = ReadView(weights.v_b->Slice(h));
    }
    if (kernel == AttentionKernel::kFlash) keys = Transposed(keys);
    heads.keys.push_back(ToLinear(precision, keys));
    heads.values.push_back(ToLinear(precision, values));
  }
  return heads;
}

}  // namespace tandem::gpu_worker
