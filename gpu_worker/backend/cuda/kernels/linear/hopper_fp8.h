// Block-scaled fp8 products on Hopper: fp8 tensor cores (wgmma) fed by TMA, inputs quantized per
// run of 128 of a row. Sums leave the tensor cores every 128 inputs, since those add with some 13
// bits: total = fma(sum of 128 products, scale_x * scale_w, total), block by block in ascending
// order, as docs/formats.md has it. A row's bits depend on the row and the weights alone, whatever
// the tile it is computed in. Weights are read as pack.h lays them: 8 outputs by 16 bytes are a
// core matrix of wgmma, so this path needs no layout of its own.
#pragma once

#include <cstdint>

#include "gpu_worker/backend/cuda/kernels/linear/linear.h"

namespace tandem::gpu_worker::cuda {

// Whether LinearHopperFp8 does products of this kind.
inline bool HasHopperFp8(Kernels kernels, const DeviceMatrix& w) {
  return kernels == Kernels::kHopper && w.format.kind == WeightKind::kFp8;
}

// What Linear and LinearWorkspaceBytes do for such a matrix. Needs a device of compute capability
// 9.0.
size_t HopperFp8WorkspaceBytes(const DeviceMatrix& w, int64_t rows);
void LinearHopperFp8(const LinearArgs& args, Stream stream);

}  // namespace tandem::gpu_worker::cuda
