// Fp8Linear: a linear layer in DeepSeek's fp8 (lib/kernels/fp8_linear.h has the arithmetic): e4m3
// weights with a scale per 128x128, inputs quantized per 128 of a row. Weights that a file holds in
// that form are taken as they are; any other type, fp8 with other blocks included, is quantized at
// load.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/base/thread_pool.h"
#include "lib/model/model_weights.h"

namespace tandem::gpu_worker {

// Quantized inputs, scratch that may be shared by layers, not by threads.
struct Fp8Inputs {
  std::vector<uint16_t> numbers;  // [rows, cols]
  std::vector<float> scales;      // [rows, blocks of 128 columns]
};

class Fp8Linear {
 public:
  // Copies or quantizes `matrix`; its bytes may go afterwards. DATA_LOSS names the tensor and the
  // row of a weight or scale that is not finite.
  static absl::StatusOr<std::unique_ptr<Fp8Linear>> Create(const Matrix& matrix,
                                                           base::ThreadPool& pool);

  int64_t size_bytes() const;
  // The weights of output i as f32 [inputs]: code times scale, rounded once.
  void ReadRow(int64_t i, float* dst) const;

  // y[r * y_stride + i] for all outputs i and rows r, the f32 sums. x: [rows] rows, x_stride apart.
  void Apply(base::ThreadPool& pool, Fp8Inputs& inputs, const float* x, int64_t x_stride,
             int64_t rows, float* y, int64_t y_stride) const;

 private:
  Fp8Linear(int64_t outputs, int64_t inputs);
  absl::Status CopyBlockRow(const Matrix& matrix, int64_t block);
  absl::Status QuantizeBlockRow(const Matrix& matrix, int64_t block);

  int64_t outputs_ = 0, inputs_ = 0;
  std::vector<uint8_t> codes_;  // [outputs, Fp8RowBytes(inputs)]
  std::vector<float> scales_;   // [Fp8Blocks(outputs), Fp8Blocks(inputs)]
};

}  // namespace tandem::gpu_worker
