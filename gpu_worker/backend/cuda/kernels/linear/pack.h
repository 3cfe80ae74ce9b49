// Where each weight and scale of a linear layer lies on the device: one place function per format,
// the same for the packer on the host and for every kernel. All but f32 are cut into tiles of 16
// inputs by 64 outputs, the tiles of one band of 16 inputs in a row, so that the band of a few
// hundred outputs that a thread block streams is one contiguous piece per 16 inputs. Inside of a
// tile the order is that in which mma.m16n8k16 takes its B operand:
//
//   bf16, fp8  core matrices of 8 outputs by 16 bytes of inputs, 128 contiguous bytes each: what
//              one phase of ldmatrix reads without a bank conflict, and what a wgmma descriptor
//              without swizzle points at. bf16: a tile is, per 8 outputs, inputs 0-7 then 8-15
//              (in bytes, from one core matrix to the next: 128 along inputs, 256 along outputs).
//              fp8: per 8 outputs, 16 inputs (128 along outputs).
//   int8, int4 Marlin's order, lib/kernels/marlin_pack.h, bytes identical with PackMarlin.
//   f32        row-major [n_padded, k_padded]: only the router, and f32 networks for comparisons.
//
// Padding: inputs to a multiple of 128, outputs to one of 64, with weights of value zero.
// Scales: fp8 f32 [ceil(outputs / 128), k_padded / 128]; int bf16 [k_padded / group, n_padded],
// each group in MarlinScalePlace's order.
#pragma once

#include <cstdint>

#include "gpu_worker/backend/cuda/kernels/linear/linear.h"
#include "lib/kernels/marlin_pack.h"

namespace tandem::gpu_worker::cuda {

inline constexpr int64_t kInputsMultiple = kernels::kMarlinKMultiple;
inline constexpr int64_t kOutputsMultiple = kernels::kMarlinNMultiple;
inline constexpr int64_t kFp8ScaleBlock = 128;  // both ways
inline constexpr int64_t kTileInputs = 16, kTileOutputs = 64;

// Where in one matrix a second one may begin behind the first: no tile and no block of scales is
// shared by both.
inline constexpr int64_t kStackMultiple = 128;

// One matrix whose outputs from 0 on are `first`'s and from second_begin on `second`'s, with zeros
// between. Formats and inputs are the same; second_begin is a multiple of kStackMultiple.
PackedMatrix StackOutputs(const PackedMatrix& first, const PackedMatrix& second,
                          int64_t second_begin);

TANDEM_HOST_DEVICE constexpr int64_t RoundUpTo(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// Number of the tile of input k and output n.
TANDEM_HOST_DEVICE constexpr int64_t TileIndex(int64_t k, int64_t n, int64_t n_padded) {
  return k / kTileInputs * (n_padded / kTileOutputs) + n / kTileOutputs;
}

// Which bf16 value of the matrix is that of input k and output n.
TANDEM_HOST_DEVICE constexpr int64_t Bf16Place(int64_t k, int64_t n, int64_t n_padded) {
  return TileIndex(k, n, n_padded) * (kTileInputs * kTileOutputs) + n % 64 / 8 * 128 +
         k % 16 / 8 * 64 + n % 8 * 8 + k % 8;
}

// Which byte of the matrix is the e4m3 code of input k and output n.
TANDEM_HOST_DEVICE constexpr int64_t Fp8Place(int64_t k, int64_t n, int64_t n_padded) {
  return TileIndex(k, n, n_padded) * (kTileInputs * kTileOutputs) + n % 64 / 8 * 128 + n % 8 * 16 +
         k % 16;
}

TANDEM_HOST_DEVICE constexpr int64_t F32Place(int64_t k, int64_t n, int64_t k_padded) {
  return n * k_padded + k;
}

// Which f32 is the scale of input k and output n.
TANDEM_HOST_DEVICE constexpr int64_t Fp8ScalePlace(int64_t k, int64_t n, int64_t k_padded) {
  return n / kFp8ScaleBlock * (k_padded / kFp8ScaleBlock) + k / kFp8ScaleBlock;
}

// Which bf16 is the scale of input k and output n; int8 and int4.
TANDEM_HOST_DEVICE constexpr int64_t GroupScalePlace(int group, int64_t k, int64_t n,
                                                     int64_t k_padded, int64_t n_padded) {
  return k / group * n_padded + kernels::MarlinScalePlace(k_padded / group, n);
}

}  // namespace tandem::gpu_worker::cuda
