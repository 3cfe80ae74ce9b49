#include "gpu_worker/backend/host/load_rows.h"

#include <cmath>
#include <mutex>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"

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
