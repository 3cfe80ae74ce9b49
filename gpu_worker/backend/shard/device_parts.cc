#include "gpu_worker/backend/shard/device_parts.h"

#include "gpu_worker/backend/cuda/kernels/columns/columns.h"

namespace tandem::gpu_worker::cuda {

void MergePartsOnDevice(const Split& split, int64_t rows, int value_bytes, const void* parts,
                        void* whole, Stream stream) {
  const int64_t part_max = split.part_max();
  for (int rank = 0; rank < split.ranks(); ++rank) {
    const ShardRange& own = split.of(rank);
    if (own.empty() || rows == 0) continue;
    CopyColumnsArgs args;
    args.value_bytes = value_bytes;
    args.from = static_cast<const std::byte*>(parts) + rank * rows * part_max * value_bytes;
    args.from_stride = part_max;
    args.to = static_cast<std::byte*>(whole) + own.begin * value_bytes;
    args.to_stride = split.total();
    args.rows = rows;
    args.cols = own.size();
    CopyColumns(args, stream);
  }
}

}  // namespace tandem::gpu_worker::cuda
