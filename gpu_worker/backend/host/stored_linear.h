// StoredLinear: a linear layer whose weights keep the format of the file, packed
// (lib/kernels/packed.h), and whose inputs are int8 for quantized formats, bf16 for others: what
// CPU engines do, and a quarter of the memory traffic of bf16 weights for a q4_K file. Each row's
// bits are independent of the rows computed with it.
#pragma once

#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "lib/base/huge_memory.h"
#include "lib/base/thread_pool.h"
#include "lib/kernels/packed.h"
#include "lib/kernels/row_forms.h"
#include "lib/model/model_weights.h"

namespace tandem::gpu_worker {

class StoredLinear {
 public:
  // Packs `matrix`; its bytes may go afterwards. UNIMPLEMENTED or INVALID_ARGUMENT name a tensor
  // whose type or length no kernel takes, RESOURCE_EXHAUSTED when there is no memory, DATA_LOSS a
  // row whose scales are not finite.
  static absl::StatusOr<std::unique_ptr<StoredLinear>> Create(const Matrix& matrix,
                                                              base::ThreadPool& pool);

  int64_t size_bytes() const { return matrix_.layout.bytes(); }

  // y[r * y_stride + i] for all outputs i and rows r, the f32 sums. x: [rows] rows, x_stride apart.
  // `input` is scratch that may be shared by layers, not by threads.
  void Apply(base::ThreadPool& pool, kernels::MatrixInput& input, const float* x, int64_t x_stride,
             int64_t rows, float* y, int64_t y_stride) const;

 private:
  explicit StoredLinear(base::HugeMemory memory) : memory_(std::move(memory)) {}

  base::HugeMemory memory_;
  kernels::PackedMatrix matrix_;
};

}  // namespace tandem::gpu_worker
