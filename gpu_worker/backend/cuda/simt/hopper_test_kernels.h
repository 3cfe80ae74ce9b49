// Small kernels that use each word of hopper.h and hopper_wgmma.h, to hold the emulator and the GPU
// to the same meaning. They need sm_90a.
#pragma once

#include <cstdint>

#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/cuda/simt/tensor_map.h"

namespace tandem::gpu_worker::cuda::language_test {

// out [rows, 64] bf16 = the swizzled box of 64 columns whose first value is (x, y) of the map's
// tensor, put in order by Swizzle128.
void LoadSwizzledBox(const TensorMap& map, int rows, int x, int y, uint16_t* out, Stream stream);
// out [box] f32 = the box of a tensor of three dimensions.
void LoadBox3d(const TensorMap& map, int values, int x, int y, int z, float* out, Stream stream);
// out = in, count (a multiple of 4, at most 1024) floats, by one bulk copy.
void LoadInARow(const float* in, float* out, int count, Stream stream);
// Stores a swizzled box [rows, 64] bf16 whose value (r, c) is 64 r + c at (x, y).
void StoreSwizzledBox(const TensorMap& map, int rows, int x, int y, Stream stream);
// sums[t] = sum over `boxes` boxes [64, 64] of bf16 below each other of row t of each; a warp loads
// into a ring of `stages` boxes, 64 threads consume.
void SumThroughRing(const TensorMap& map, int boxes, int stages, float* sums, Stream stream);
// order [2]: what two warps see that pass a word through named barriers 1 and 2.
void PingPong(int* order, Stream stream);

// In a cluster of `blocks`: block i brings the box at row 8 i of the map's tensor [8 blocks, 64]
// bf16 to all of them, and stores 16 bytes of {i, destination, 0, 0} to each. out [blocks, 8 blocks
// * 64]: what each block has of the tensor; words [blocks, blocks, 4]: what it was given. Twice
// over, so that a phase follows another.
void ReachOtherBlocks(const TensorMap& map, int blocks, uint16_t* out, uint32_t* words,
                      Stream stream);

// d [64, n] f32 = a [64, 64] b [n, 64]^T, bf16.
void WgmmaProduct(int n, const TensorMap& a, const TensorMap& b, float* d, Stream stream);
// The same with A from registers.
void WgmmaProductOfRegisters(int n, const TensorMap& a, const TensorMap& b, float* d,
                             Stream stream);
// The same with b given as [64, n]; n >= 64. A from shared memory or registers.
void WgmmaProductTransposed(int n, bool registers, const TensorMap& a, const TensorMap& b, float* d,
                            Stream stream);
// d [64, n] f32 = a [64, 128] b [n, 128]^T, e4m3.
void WgmmaProductE4m3(int n, const TensorMap& a, const TensorMap& b, float* d, Stream stream);

}  // namespace tandem::gpu_worker::cuda::language_test
