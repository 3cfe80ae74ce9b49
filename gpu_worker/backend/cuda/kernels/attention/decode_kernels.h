// Launch functions of the decode kernels, for decode.cc, which chooses among them.
#pragma once

#include "gpu_worker/backend/cuda/kernels/attention/attention.h"

namespace tandem::gpu_worker::cuda {

// Plain f32 loops, one thread block a row and head; any shape, both storages, no plan, no
// workspace.
void ReferenceMlaDecode(const MlaDecodeArgs& args, Stream stream);

}  // namespace tandem::gpu_worker::cuda
