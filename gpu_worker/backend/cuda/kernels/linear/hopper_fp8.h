// Block-scaled fp8 products on Hopper: fp8 tensor cores (wgmma) fed by TMA, inputs quantized per
// run of 128 of a row. Sums leave the tensor cores every 128 inputs, since those add with some 13
// bits: total = fma(sum of 128 products, scale_x * scale_w, total), run by run in ascending order.
// The runs are cut into HopperFp8Splits parts with a total of their own each, added in order, as
// docs/formats.md has it. Where, the inputs alone decide: a row's bits depend on the row and the
// weights, whatever the number of rows, of this rank's outputs, or the kernel. Weights are read as
// pack.h lays them: 8 outputs by 16 bytes are a core matrix of wgmma, so this path needs no layout
// of its own.
//
// Two kernels with the same bits: hopper_fp8_few.cu for rows that the weights' way from memory
// takes longer than, hopper_fp8_many.cu for the others (decision 0014).
#pragma once

#include <algorithm>
#include <cstdint>

#include "gpu_worker/backend/cuda/kernels/linear/linear.h"

namespace tandem::gpu_worker::cuda {

// Whether LinearHopperFp8 does products of this kind.
inline bool HasHopperFp8(Kernels kernels, const DeviceMatrix& w) {
  return kernels == Kernels::kHopper && w.format.kind == WeightKind::kFp8;
}

// Parts of the sums over the inputs: as many as a cluster may have blocks, 8, but of 512 inputs at
// least (the four stages that a block has on their way at first), in powers of two. Part s has runs
// [s * runs / parts, (s + 1) * runs / parts).
constexpr int HopperFp8Splits(int64_t inputs) {
  const int64_t runs = (inputs + 127) / 128;
  int splits = 1;
  while (splits < 8 && runs / (2 * splits) >= 4) splits *= 2;
  return splits;
}

// How a product is done; its bits do not depend on it.
struct HopperFp8Plan {
  bool many_rows = false;
  int clusters = 1;  // of blocks, each of which takes its share of the tiles one by one
};
HopperFp8Plan PlanHopperFp8(const DeviceMatrix& w, int64_t rows);

// What Linear and LinearWorkspaceBytes do for such a matrix; all rows are quantized at once and go
// in one launch. Needs a device of compute capability 9.0.
size_t HopperFp8WorkspaceBytes(const DeviceMatrix& w, int64_t rows);
void LinearHopperFp8(const LinearArgs& args, Stream stream);
// With another plan than PlanHopperFp8's: for tests.
void LinearHopperFp8(const LinearArgs& args, const HopperFp8Plan& plan, Stream stream);

}  // namespace tandem::gpu_worker::cuda
