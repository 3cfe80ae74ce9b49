// Moving columns of rows on the device: the pieces of attention's operands that are copied as they
// are.
#pragma once

#include <cstdint>

#include "gpu_worker/backend/cuda/device/device.h"

namespace tandem::gpu_worker::cuda {

// to[r * to_stride + c] = from[r * from_stride + c] for the first `cols` of each row; values of
// value_bytes (2 or 4), strides in values.
struct CopyColumnsArgs {
  int value_bytes = 2;
  const void* from = nullptr;
  int64_t from_stride = 0;
  void* to = nullptr;
  int64_t to_stride = 0;
  int64_t rows = 0, cols = 0;
};
void CopyColumns(const CopyColumnsArgs& args, Stream stream);

}  // namespace tandem::gpu_worker::cuda
