#include "gpu_worker/backend/shard/part_rows.h"

#include <algorithm>

namespace tandem::gpu_worker {

void MergeParts(const Split& split, int64_t rows, const float* parts, int64_t cols, float* whole) {
  const int64_t part_max = split.part_max();
  for (int rank = 0; rank < split.ranks(); ++rank) {
    const ShardRange& own = split.of(rank);
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(parts + (rank * rows + r) * part_max, own.size(), whole + r * cols + own.begin);
    }
  }
}

}  // namespace tandem::gpu_worker
