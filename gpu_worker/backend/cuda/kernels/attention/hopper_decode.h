// Decode attention on Hopper for 33 heads and more on a GPU: 64 heads by a page of 64 tokens at a
// time on warpgroup tensor cores, keys brought by TMA. Fewer heads leave these tiles mostly empty
// and are bound by memory, which the portable kernel can keep as busy.
#pragma once

#include "gpu_worker/backend/cuda/kernels/attention/attention.h"

namespace tandem::gpu_worker::cuda {

// Whether HopperMlaDecode does this shape: bf16, 512 + 64, head groups of 64 (decode_plan.h).
bool HasHopperDecode(const MlaShape& shape, Storage storage);

// Does what the portable decode kernels do: items of the plan to `out`, `lse` and the workspace;
// CombineMlaDecode does the rest. Needs a device of compute capability 9.0.
void HopperMlaDecode(const MlaDecodeArgs& args, Stream stream);

}  // namespace tandem::gpu_worker::cuda
