// Rows of which every rank holds some columns, put together in host memory. A gather lays parts one
// behind the other, [ranks, rows, part_max]; layers read whole rows, [rows, cols].
#pragma once

#include <cstdint>

#include "gpu_worker/backend/shard/shard_plan.h"

namespace tandem::gpu_worker {

// whole[r, split.of(k)] = parts[k, r] for all rows and ranks; what lies behind a short part is not
// read.
void MergeParts(const Split& split, int64_t rows, const float* parts, int64_t cols, float* whole);

}  // namespace tandem::gpu_worker
