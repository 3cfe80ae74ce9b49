#include "gpu_worker/backend/host/marlin_linear.h"

#include "gpu_worker/backend/host/bf16.h"
#include "gpu_worker/backend/host/load_rows.h"
#include "gpu_worker/backend/host/output_shares.h"
#include "lib/base/status_macros.h"

namespace tandem::gpu_worker {
MarlinLinear::MarlinLinear(const kernels::MarlinForm& form, int64_t outputs, int64_t inputs)
    : form_(form),
      outputs_(outputs),
      inputs_(inputs),
      codes_(outputs * form.RowBytes(inputs)),
      scales_(outputs * form.Groups(inputs)) {}

absl::StatusOr<std::unique_ptr<MarlinLinear>> MarlinLinear::Create(const kernels::MarlinForm& form,
                                                                   const Matrix& matrix,
                                                                   base::ThreadPool& pool) {
  std::unique_ptr<MarlinLinear> linear(new MarlinLinear(form, matrix.rows(), matrix.cols()));
  TANDEM_RETURN_IF_ERROR(ForAllOrError(
      pool, matrix.rows(), [&](int64_t row) { return linear->QuantizeRow(matrix, row); }));
  return linear;
}

absl::Status MarlinLinear::QuantizeRow(const Matrix& matrix, int64_t row) {
  std::vector<float> weights(inputs_);
  std::vector<uint8_t> codes(inputs_);
  TANDEM_RETURN_IF_ERROR(ReadFiniteRow(matrix, row, weights.data()));
  kernels::QuantizeMarlinRow(form_, weights.data(), inputs_, codes.data(),
                             scales_.data() + row * form_.Groups(inputs_));
  kernels::StoreMarlinRow(form_, codes.data(), inputs_,
                          codes_.data() + row * form_.RowBytes(inputs_));
  return absl::OkStatus();
}

int64_t MarlinLinear::size_bytes() const {
  return static_cast<int64_t>(codes_.size() + scales_.size() * sizeof(uint16_t));
}

void MarlinLinear::ReadRow(int64_t i, float* dst) const {
  std::vector<uint8_t> codes(inputs_);
  kernels::LoadMarlinRow(form_, codes_.data() + i * form_.RowBytes(inputs_), inputs_, codes.data());
  const uint16_t* scales = scales_.data() + i * form_.Groups(inputs_);
  for (int64_t k = 0; k < inputs_; ++k) {
    dst[k] = Bf16Value(kernels::MarlinWeight(form_, codes[k], scales[k / form_.group]));
  }
}

void MarlinLinear::Apply(base::ThreadPool& pool, const uint16_t* packed_x, int64_t rows, float* y,
                         int64_t y_stride) const {
  const kernels::MarlinLinearArgs args{.form = form_,
                                       .x = packed_x,
                                       .x_stride = inputs_,
                                       .w = codes_.data(),
                                       .w_scales = scales_.data(),
                                       .y = y,
                                       .y_stride = y_stride,
                                       .rows = rows,
                                       .cols = inputs_};
  ForShares(pool, outputs_, args, kernels::LinearMarlin);
}

}  // namespace tandem::gpu_worker
