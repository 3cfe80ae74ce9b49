// What Linear launches: the kernels of this folder behind one interface each, for a chunk of at
// most kRowsAtOnce rows. linear.cc cuts rows into chunks, carves the workspace and chooses.
#pragma once

#include <cstdint>

#include "gpu_worker/backend/cuda/kernels/linear/linear.h"
#include "gpu_worker/backend/cuda/kernels/linear/pack.h"

namespace tandem::gpu_worker::cuda {

// Bounds the workspace: partial sums and prepared inputs of so many rows. 256 rows give a tensor
// core more work per weight (512 FLOP) than the memory of a GPU can keep up with, so that weights
// read again for the next 256 rows cost no time.
inline constexpr int64_t kRowsAtOnce = 256;

// Rows of scales are rounded up to the largest row tile of the kernels, which copy whole tiles.
inline constexpr int64_t kRowTileMax = 64;

// Where inputs 0 to 15 of a band of 16 lie after PrepareInputs(quantize). Portable fp8 products
// take their weights' bytes as they come from ldmatrix: thread t of four has inputs 4t to 4t + 3,
// of which bytes 0 and 2 make the first operand (mma's inputs 2t, 2t + 1) and bytes 1 and 3 the
// second (2t + 8, 2t + 9), since those two pairs come out of a word with one mask each. A sum does
// not care for the order as long as inputs and weights agree.
TANDEM_HOST_DEVICE constexpr int Fp8InputPlace(int k) { return k / 4 * 2 + k % 4 / 2 + k % 2 * 8; }

// Rows of a chunk as a kernel reads them; strides in values.
struct InputRows {
  const void* x = nullptr;
  int64_t stride = 0, batch_stride = 0;
  Storage storage = Storage::kBf16;
  // fp8: of row r and block b of 128 inputs of matrix m, scales[(m * blocks + b) * scale_rows + r].
  const float* scales = nullptr;
  int64_t scale_rows = 0;
};

struct OutputRows {
  void* y = nullptr;
  int64_t stride = 0, batch_stride = 0;
  Storage storage = Storage::kBf16;
};

// x [rows, x.stride] bf16 to numbers [batch, rows, k_padded] bf16, zeros behind the inputs.
// quantize: numbers are e4m3's, bit for bit QuantizeFp8Inputs' of lib/kernels/fp8_linear.h, in
// Fp8InputPlace's order, and `scales` [batch, k_padded / 128, scale_rows] is written for the rows
// there are; otherwise copies. x_fp8, where it has codes, is read instead of x: quantized already.
struct PrepareInputsArgs {
  InputRows x;
  Fp8Rows x_fp8;
  int64_t rows = 0, inputs = 0, batch = 1;
  bool quantize = false;
  uint16_t* numbers = nullptr;
  float* scales = nullptr;
  int64_t scale_rows = 0;
};
void PrepareInputs(const PrepareInputsArgs& args, Stream stream);

// All five formats, bf16 or f32 inputs (fp8: prepared ones). Sums are in the order of lib/kernels,
// so that its bits are those of LinearF32, LinearBf16, LinearFp8 and LinearMarlin.
void LinearReference(const DeviceMatrix& w, const InputRows& x, const OutputRows& y, int64_t rows,
                     Stream stream);

// The weight-streaming family (portable_layout.h). x: bf16 whose rows begin at multiples of 16
// bytes and of which x_inputs may be read, a multiple of 8; fp8: prepared, with scales. splits:
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
