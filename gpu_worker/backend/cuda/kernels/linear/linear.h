// Linear layers on the device: y = x W^T with weights in one of five formats, each with the
// arithmetic that docs/formats.md writes down (the host backend's kernels are their oracle). A
// row's bits depend on that row and the weights, never on how many rows there are: every sum over
// the inputs is split at places that the shape of the weights alone decides.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/cuda/kernels/rows/rows.h"

namespace tandem::gpu_worker::cuda {

// kReference: plain f32 loops, the oracle on the device. kPortable: mma.sync and cp.async, sm_80
// and newer. kHopper: wgmma and TMA where there is such a kernel, kPortable's elsewhere.
enum class Kernels { kReference, kPortable, kHopper };

enum class WeightKind { kF32, kBf16, kFp8, kInt8, kInt4 };

struct WeightFormat {
  WeightKind kind = WeightKind::kBf16;
  int group = 128;  // inputs that share a scale, kInt8 and kInt4: 128 or 64
  bool operator==(const WeightFormat&) const = default;
};

// A matrix as it lies on the device. The layout of `weights` and `scales` is pack.h's; all kernels
// of a format read the same bytes.
struct DeviceMatrix {
  WeightFormat format;
  int64_t outputs = 0, inputs = 0;
  int64_t batch = 1;  // matrices of this shape, one behind the other
  const void* weights = nullptr;
  const void* scales = nullptr;               // null where the format has none
  int64_t weight_bytes = 0, scale_bytes = 0;  // of one matrix, padding included
  // Of a layer whose outputs, or a batch whose matrices, several ranks share or several calls go
  // through: the sizes of the whole. They decide where sums are split, so that a part has the bits
  // of the whole. 0: these are all.
  int64_t whole_outputs = 0, whole_batch = 0;
};

// The shape of a packed matrix: sizes with padding, no memory. For planning.
DeviceMatrix MatrixShape(const WeightFormat& format, int64_t outputs, int64_t inputs);

// The same in host memory, ready to be copied.
struct PackedMatrix {
  DeviceMatrix shape;  // pointers are null
  std::vector<std::byte> weights, scales;
};

// Packs a matrix whose row i (all `inputs` of output i, f32) `row(i, dst)` writes; rounds to the
// format as the host backend does, bit for bit. Thread-safe. fp8 and int weights must be finite:
// INVALID_ARGUMENT names output and input. fp8 weights that come with codes and scales of their own
// (DeepSeek's checkpoints): PackFp8.
absl::StatusOr<PackedMatrix> PackMatrix(const WeightFormat& format, int64_t outputs, int64_t inputs,
                                        const std::function<void(int64_t, float*)>& row);
// codes [outputs, inputs] e4m3, scales [ceil(outputs / 128), ceil(inputs / 128)]. INVALID_ARGUMENT
// names the output of a code or scale that is not finite.
absl::StatusOr<PackedMatrix> PackFp8(int64_t outputs, int64_t inputs, const uint8_t* codes,
                                     const float* scales);

// Rows of inputs that are e4m3 already, as QuantizeFp8Rows, RmsNormFp8 and SwiGluFp8 (rows.h) write
// them.
struct Fp8Rows {
  const uint8_t* codes = nullptr;  // [rows, inputs padded to 128], aligned to 16 bytes
  const float* scales = nullptr;   // [rows, inputs / 128 rounded up]
};

struct LinearArgs {
  Kernels kernels = Kernels::kPortable;
  DeviceMatrix w;
  // x: matrix b's rows begin at x + b * x_batch_stride values; row r at r * x_stride. bf16; for
  // kF32 weights also f32 (the router reads bf16 rows, f32 precision f32 ones).
  // Any strides; kPortable first copies rows that do not begin at multiples of 16 bytes or are no
  // multiple of 8 inputs long.
  const void* x = nullptr;
  Storage x_storage = Storage::kBf16;
  int64_t x_stride = 0, x_batch_stride = 0;
  // Of fp8 weights, batch 1: where codes are given, the product reads them and not x. The bits are
  // those that it has of the rows in bf16 from which they were made.
  Fp8Rows x_fp8 = {};
  int64_t rows = 0;
  // y likewise; f32 sums, or rounded to bf16.
  void* y = nullptr;
  int64_t y_stride = 0, y_batch_stride = 0;
  Storage y_storage = Storage::kBf16;
  // Scratch of at least LinearWorkspaceBytes for this shape; its content does not matter.
  void* workspace = nullptr;
  size_t workspace_bytes = 0;
  // A row's bits may depend on how many rows there are: large batches then go to a library where it
  // takes them (cublaslt.h).
  bool allow_batch_dependent = false;
};

// Scratch for up to `rows` rows: partial sums, quantized inputs; with allow_batch_dependent, the
// library's operands.
size_t LinearWorkspaceBytes(Kernels kernels, const DeviceMatrix& w, int64_t rows,
                            bool allow_batch_dependent = false);
// Enqueues the product; no allocation, no synchronization. rows = 0 does nothing.
void Linear(const LinearArgs& args, Stream stream);

}  // namespace tandem::gpu_worker::cuda
