// Loading a linear layer's weights in parallel, whole or some of its rows, and saying which of them
// cannot be used: shared by the formats that quantize at load.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/status.h"
#include "lib/base/thread_pool.h"
#include "lib/model/model_weights.h"

namespace tandem::gpu_worker {

// Calls body(i) for all i below `count` on the pool; the first error seen.
absl::Status ForAllOrError(base::ThreadPool& pool, int64_t count,
                           const std::function<absl::Status(int64_t)>& body);

// Writes row `row` of `matrix` to `dst` [cols] f32. DATA_LOSS names file, tensor and row when a
// weight is not finite.
absl::Status ReadFiniteRow(const Matrix& matrix, int64_t row, float* dst);

// Rows [begin, end) as a matrix of their own; nothing is copied. Its name says which rows it has.
// With fp8 scales `begin` must be the first row of a block (CHECKed).
Matrix RowsOf(const Matrix& matrix, int64_t begin, int64_t end);

// DATA_LOSS with file, tensor and row in front of `what`.
absl::Status BadRow(const Matrix& matrix, int64_t row, const std::string& what);

}  // namespace tandem::gpu_worker
