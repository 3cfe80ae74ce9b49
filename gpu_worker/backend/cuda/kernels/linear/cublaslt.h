// cuBLASLt for large batches: bf16 with f32 sums, and block-scaled fp8 on Hopper. The library adds
// in an order that depends on the number of rows, so it is never chosen unless the caller says
// LinearArgs::allow_batch_dependent. Its operands are plain row-major matrices, made in the
// workspace from the layout that all other kernels read: one more pass over the weights, little
// beside a product of some hundred rows.
//
// The library is opened when it is first needed, so that a program with this in it starts where
// there is none. The emulator has none.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "gpu_worker/backend/cuda/kernels/linear/linear.h"

namespace tandem::gpu_worker::cuda {

// Fewer rows leave the weights' second pass too large a part of the product: 256 rows are 512 FLOP
// a weight, about what an H200 does while it reads and writes a bf16 weight twice.
inline constexpr int64_t kCublasLtRowsMin = 256;

// Scales of 128 inputs in a row of 128x128 blocks, padded to a multiple of four: what the library
// reads, silently wrong numbers where they are not (pytorch#166752).
constexpr int64_t CublasLtBlocks(int64_t inputs) { return ((inputs + 127) / 128 + 3) / 4 * 4; }

// y [rows, outputs] = x [rows, inputs] w [outputs, inputs]^T; bf16, or e4m3 with f32 scales.
struct CublasLtProduct {
  WeightKind kind = WeightKind::kBf16;
  int64_t outputs = 0, inputs = 0, rows = 0;
  const void* w = nullptr;          // dense
  const float* w_scales = nullptr;  // fp8: [outputs / 128, CublasLtBlocks(inputs)]
  const void* x = nullptr;
  int64_t x_stride = 0;             // values
  const float* x_scales = nullptr;  // fp8: [inputs / 128, rows]: of one run of all rows, dense
  void* y = nullptr;
  int64_t y_stride = 0;
  Storage y_storage = Storage::kBf16;
  void* workspace = nullptr;  // of the library: kCublasLtWorkspaceBytes or more
  size_t workspace_bytes = 0;
};
// What NVIDIA recommends for Hopper.
inline constexpr size_t kCublasLtWorkspaceBytes = size_t{32} << 20;

// What the library does not take, in one sentence; empty where it is fine.
std::string CublasLtProblem(const CublasLtProduct& product);

// Whether this program can open the library. Loads it.
bool HasCublasLt();

// Enqueues the product on the current device. INVALID_ARGUMENT: CublasLtProblem; UNIMPLEMENTED: the
// library knows no algorithm for it; UNAVAILABLE: no library. The algorithm is chosen when a shape
// is first seen on a device and kept.
absl::Status MultiplyByCublasLt(const CublasLtProduct& product, Stream stream);

// Whether Linear gives this product to the library, which allow_batch_dependent permits.
bool TakesCublasLt(const LinearArgs& args);
// Scratch that LinearCublasLt needs for up to `rows` rows.
size_t CublasLtScratchBytes(const DeviceMatrix& w, int64_t rows);
void LinearCublasLt(const LinearArgs& args, Stream stream);

// Of a packed matrix: weights dense row-major, bf16 or e4m3; fp8 scales as CublasLtProduct has
// them, padding zero.
void PlainWeights(const DeviceMatrix& w, void* weights, Stream stream);
void PlainWeightScales(const DeviceMatrix& w, float* scales, Stream stream);
// [rows, blocks] to [blocks, rows].
void TransposeScales(const float* scales, int64_t rows, int64_t blocks, float* transposed,
                     Stream stream);

}  // namespace tandem::gpu_worker::cuda
