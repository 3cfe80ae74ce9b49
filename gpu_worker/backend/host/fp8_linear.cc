#include "gpu_worker/backend/host/fp8_linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/host/load_rows.h"
#include "gpu_worker/backend/host/output_shares.h"
#include "gpu_worker/backend/host/read_weights.h"
#include "lib/base/status_macros.h"
#include "lib/kernels/fp8_linear.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker {
namespace {

using kernels::Fp8Blocks;
using kernels::Fp8RowBytes;
using kernels::kFp8Block;

}  // namespace

Fp8Linear::Fp8Linear(int64_t outputs, int64_t inputs)
    : outputs_(outputs),
      inputs_(inputs),
      codes_(outputs * Fp8RowBytes(inputs)),
      scales_(Fp8Blocks(outputs) * Fp8Blocks(inputs)) {}

absl::StatusOr<std::unique_ptr<Fp8Linear>> Fp8Linear::Create(const Matrix& matrix,
                                                             base::ThreadPool& pool) {
  std::unique_ptr<Fp8Linear> linear(new Fp8Linear(matrix.rows(), matrix.cols()));
  const bool as_is = IsFp8InBlocks(matrix);
  TANDEM_RETURN_IF_ERROR(ForAllOrError(pool, Fp8Blocks(matrix.rows()), [&](int64_t block) {
    return as_is ? linear->CopyBlockRow(matrix, block) : linear->QuantizeBlockRow(matrix, block);
  }));
  return linear;
}

absl::Status Fp8Linear::CopyBlockRow(const Matrix& matrix, int64_t block) {
  const int64_t first = block * kFp8Block, end = std::min(first + kFp8Block, outputs_);
  const std::vector<float> scales = BlockScalesOfRows(matrix, first, 1);
  for (const float scale : scales) {
    if (!std::isfinite(scale)) {
      return BadRow(matrix, first, absl::StrCat("expected finite scales, found ", scale));
    }
  }
  std::copy(scales.begin(), scales.end(), scales_.begin() + block * Fp8Blocks(inputs_));
  for (int64_t r = first; r < end; ++r) {
    const std::byte* row = matrix.view.data + r * matrix.view.row_bytes();
    const absl::Status status = ValidateRow(matrix.view.dtype, row, inputs_);
    if (!status.ok()) return BadRow(matrix, r, std::string(status.message()));
    std::memcpy(codes_.data() + r * Fp8RowBytes(inputs_), row, inputs_);
  }
  return absl::OkStatus();
}

absl::Status Fp8Linear::QuantizeBlockRow(const Matrix& matrix, int64_t block) {
  const int64_t first = block * kFp8Block, rows = std::min(kFp8Block, outputs_ - first);
  std::vector<float> weights(rows * inputs_);
  for (int64_t r = 0; r < rows; ++r) {
    TANDEM_RETURN_IF_ERROR(ReadFiniteRow(matrix, first + r, weights.data() + r * inputs_));
  }
  kernels::QuantizeFp8Weights(weights.data(), rows, inputs_,
                              codes_.data() + first * Fp8RowBytes(inputs_),
                              scales_.data() + block * Fp8Blocks(inputs_));
  return absl::OkStatus();
}

int64_t Fp8Linear::size_bytes() const {
  return static_cast<int64_t>(codes_.size() + scales_.size() * sizeof(float));
}

void Fp8Linear::ReadRow(int64_t i, float* dst) const {
  const uint8_t* codes = codes_.data() + i * Fp8RowBytes(inputs_);
  const float* scales = scales_.data() + i / kFp8Block * Fp8Blocks(inputs_);
  for (int64_t k = 0; k < inputs_; ++k) dst[k] = F8E4M3ToF32(codes[k]) * scales[k / kFp8Block];
}

void Fp8Linear::Apply(base::ThreadPool& pool, Fp8Inputs& inputs, const float* x, int64_t x_stride,
                      int64_t rows, float* y, int64_t y_stride) const {
  const int64_t blocks = Fp8Blocks(inputs_);
  inputs.numbers.resize(std::max<size_t>(inputs.numbers.size(), rows * inputs_));
  inputs.scales.resize(std::max<size_t>(inputs.scales.size(), rows * blocks));
  pool.ParallelFor(rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      kernels::QuantizeFp8Inputs(x + r * x_stride, inputs_, inputs.numbers.data() + r * inputs_,
                                 inputs.scales.data() + r * blocks);
    }
  });
  const kernels::Fp8LinearArgs args{.x = inputs.numbers.data(),
                                    .x_stride = inputs_,
                                    .x_scales = inputs.scales.data(),
                                    .w = codes_.data(),
                                    .w_scales = scales_.data(),
                                    .y = y,
                                    .y_stride = y_stride,
                                    .rows = rows,
                                    .cols = inputs_};
  ForShares(pool, outputs_, args, kernels::LinearFp8);
}

}  // namespace tandem::gpu_worker
