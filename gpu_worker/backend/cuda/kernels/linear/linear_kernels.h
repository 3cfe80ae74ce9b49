// What Linear launches: the kernels of this folder behind one interface each, for a chunk of at
// most RowsAtOnce rows. linear.cc cuts rows into chunks, carves the workspace and chooses.
#pragma once

#include <algorithm>
#include <cstdint>

#include "gpu_worker/backend/cuda/kernels/linear/linear.h"
#include "gpu_worker/backend/cuda/kernels/linear/pack.h"

namespace tandem::gpu_worker::cuda {

// Rows of a chunk, which bound the workspace: inputs of so many rows of each matrix, and partial
// sums of each part. 256 rows give a tensor core more work per weight (512 FLOP) than the memory of
// a GPU can keep up with, so that weights read again for the next rows cost no time by themselves,
// but the last blocks of each launch leave multiprocessors idle: more rows where there are neither
// parts nor matrices to multiply them by.
inline constexpr int64_t kRowsAtOnceMin = 256, kRowsAtOnceMax = 2048;
constexpr int64_t RowsAtOnce(int64_t splits, int64_t batch) {
  return std::max(kRowsAtOnceMin, kRowsAtOnceMax / (splits * batch));
}

// Rows of a chunk as a kernel reads them; strides in values.
struct InputRows {
  const void* x = nullptr;
  int64_t stride = 0, batch_stride = 0;
  Storage storage = Storage::kBf16;
  // fp8: x is e4m3 with strides in multiples of 128, and scales[i / 128] that of x[i].
  const float* scales = nullptr;
};

struct OutputRows {
  void* y = nullptr;
  int64_t stride = 0, batch_stride = 0;
  Storage storage = Storage::kBf16;
};

// x [batch][rows, x.stride] bf16 to `to` [batch, rows, k_padded] bf16, zeros behind the inputs.
void CopyInputs(const InputRows& x, int64_t rows, int64_t inputs, int64_t batch, uint16_t* to,
                Stream stream);

// All five formats, bf16 or f32 inputs (fp8: quantized ones). Sums are in the order of lib/kernels,
// so that its bits are those of LinearF32, LinearBf16, LinearFp8 and LinearMarlin.
void LinearReference(const DeviceMatrix& w, const InputRows& x, const OutputRows& y, int64_t rows,
                     Stream stream);

// The weight-streaming family (portable_layout.h). x: bf16 whose rows begin at multiples of 16
// bytes and of which x_inputs may be read, a multiple of 8; fp8: quantized, with scales. splits:
// parts of the sums over the inputs; `partials` (f32, PartialBytes) where it is not 1. f32 weights:
// any x, no splits.
struct PortableArgs {
  DeviceMatrix w;
  InputRows x;
  int64_t x_inputs = 0;
  OutputRows y;
  int64_t rows = 0;
  int64_t splits = 1;
  float* partials = nullptr;
};
void LinearPortable(const PortableArgs& args, Stream stream);
void LinearPortableF32(const PortableArgs& args, Stream stream);
int64_t PartialBytes(const DeviceMatrix& w, int64_t rows, int64_t splits);

}  // namespace tandem::gpu_worker::cuda
