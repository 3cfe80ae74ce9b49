// Inputs of an fp8 product as its kernels read them: those that came quantized, or a chunk of rows
// quantized now into the beginning of the product's workspace. The same for the portable and the
// Hopper kernels.
#pragma once

#include <cstdint>

#include "gpu_worker/backend/cuda/kernels/linear/linear.h"

namespace tandem::gpu_worker::cuda {

// Workspace that `rows` quantized rows take, a multiple of 256 bytes: codes [batch, rows, inputs
// padded to 128], then scales [batch, rows, runs of 128].
int64_t Fp8RowsBytes(const DeviceMatrix& w, int64_t rows);

// Rows [begin, begin + rows) of args.
Fp8Rows QuantizedRows(const LinearArgs& args, int64_t begin, int64_t rows, Stream stream);

}  // namespace tandem::gpu_worker::cuda
