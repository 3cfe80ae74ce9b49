// Launch functions of the decode kernels, for decode.cc, which chooses among them, and for tests.
#pragma once

#include "gpu_worker/backend/cuda/kernels/attention/attention.h"

namespace tandem::gpu_worker::cuda {

// Plain f32 loops, one thread block a row and head; any shape, both storages, no plan, no
// workspace.
void ReferenceMlaDecode(const MlaDecodeArgs& args, Stream stream);

// Items of the plan, bf16: results of rows with one part to `out` and `lse`, partial results of
// others to the workspace (decode_plan.h). 512 + 64, and 32 + 16 or 64 + 64.
void PortableMlaDecode512(const MlaDecodeArgs& args, Stream stream);
void PortableMlaDecodeSmall(const MlaDecodeArgs& args, Stream stream);

// What is missing then: merged parts, zeros and -inf of rows without keys. bf16.
void CombineMlaDecode(const MlaDecodeArgs& args, Stream stream);

}  // namespace tandem::gpu_worker::cuda
