#include "gpu_worker/backend/host/load_rows.h"

#include <cmath>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker {

absl::Status ForAllOrError(base::ThreadPool& pool, int64_t count,
                           const std::function<absl::Status(int64_t)>& body) {
  std::mutex mutex;
  absl::Status first_error;
  pool.ParallelFor(count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      absl::Status status = body(i);
      if (status.ok()) continue;
      const std::lock_guard<std::mutex> lock(mutex);
      if (first_error.ok()) first_error = std::move(status);
    }
  });
  return first_error;
}

namespace {

// Rows [begin, end) of a view of `rows` rows.
TensorView RowsOfView(const TensorView& view, int64_t begin, int64_t end) {
  TensorView part = view;
  part.name = absl::StrCat(view.name, "[", begin, ":", end, "]");
  part.shape = {end - begin, view.cols()};
  part.data = view.data + begin * view.row_bytes();
  part.size_bytes = (end - begin) * view.row_bytes();
  return part;
}

}  // namespace

Matrix RowsOf(const Matrix& matrix, int64_t begin, int64_t end) {
  TANDEM_CHECK(0 <= begin && begin < end && end <= matrix.rows());
  if (begin == 0 && end == matrix.rows()) return matrix;
  Matrix part = matrix;
  part.view = RowsOfView(matrix.view, begin, end);
  if (matrix.scale_inv.has_value()) {
    const int64_t block = matrix.fp8_block_rows;
    TANDEM_CHECK_EQ(begin % block, 0);
    part.scale_inv = RowsOfView(*matrix.scale_inv, begin / block, (end + block - 1) / block);
  }
  return part;
}

absl::Status BadRow(const Matrix& matrix, int64_t row, const std::string& what) {
  return absl::DataLossError(
      absl::StrCat(matrix.view.file, ": tensor ", matrix.view.name, ": row ", row, ": ", what));
}

absl::Status ReadFiniteRow(const Matrix& matrix, int64_t row, float* dst) {
  DequantizeMatrixRow(matrix, row, dst);
  for (int64_t k = 0; k < matrix.cols(); ++k) {
    if (!std::isfinite(dst[k])) {
      return BadRow(matrix, row,
                    absl::StrCat("expected finite weights, found ", dst[k], " at column ", k));
    }
  }
  return absl::OkStatus();
}

}  // namespace tandem::gpu_worker
