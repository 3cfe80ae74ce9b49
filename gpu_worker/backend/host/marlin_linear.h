// MarlinLinear: a linear layer with int4 or int8 weights, quantized at load from whatever type the
// file has, and bf16 inputs (lib/kernels/marlin_linear.h has the arithmetic). Any number of inputs
// and outputs: where a GPU kernel pads (lib/kernels/marlin_pack.h), this has a short last group,
// which is the same.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/base/thread_pool.h"
#include "lib/kernels/marlin_linear.h"
#include "lib/model/model_weights.h"

namespace tandem::gpu_worker {

class MarlinLinear {
 public:
  // Quantizes `matrix`; its bytes may go afterwards. DATA_LOSS names the tensor and the row of a
  // weight that is not finite.
  static absl::StatusOr<std::unique_ptr<MarlinLinear>> Create(const kernels::MarlinForm& form,
                                                              const Matrix& matrix,
                                                              base::ThreadPool& pool);

  int64_t size_bytes() const;
  // The weights of output i as f32 [inputs], bf16 numbers.
  void ReadRow(int64_t i, float* dst) const;

  // y[r * y_stride + i] for all outputs i and rows r, the f32 sums. packed_x: [rows, inputs] bf16.
  void Apply(base::ThreadPool& pool, const uint16_t* packed_x, int64_t rows, float* y,
             int64_t y_stride) const;

 private:
  MarlinLinear(const kernels::MarlinForm& form, int64_t outputs, int64_t inputs);
  absl::Status QuantizeRow(const Matrix& matrix, int64_t row);

  kernels::MarlinForm form_;
  int64_t outputs_ = 0, inputs_ = 0;
  std::vector<uint8_t> codes_;    // [outputs, form.RowBytes(inputs)]
  std::vector<uint16_t> scales_;  // [outputs, form.Groups(inputs)] bf16
};

}  // namespace tandem::gpu_worker
