// Rows of which every rank holds some columns, put together in device memory: part_rows.h for
// devices.
#pragma once

#include <cstdint>

#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/shard/shard_plan.h"

namespace tandem::gpu_worker::cuda {

// whole[r, split.of(k)] = parts[k, r] for all rows and ranks: parts [ranks, rows, split.part_max()]
// as a gather leaves them, whole [rows, split.total()], values of value_bytes (2 or 4). One launch
// a rank; may be captured.
void MergePartsOnDevice(const Split& split, int64_t rows, int value_bytes, const void* parts,
                        void* whole, Stream stream);

}  // namespace tandem::gpu_worker::cuda
