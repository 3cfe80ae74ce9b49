// Between the portable kernel's files: what a launch is given, and one function per format, each
// compiled apart.
#pragma once

#include "gpu_worker/backend/cuda/kernels/linear/linear_kernels.h"

namespace tandem::gpu_worker::cuda::portable {

// How far pointers of a thread move from one copy to the next: weights and scales in bytes, rows of
// inputs in values. Kept as constants of the launch, they cost no registers.
struct CopySteps {
  int64_t weights = 0, rows = 0, scales = 0;
};

struct KernelArgs {
  const unsigned char* weights;
  const unsigned char* scales;
  int64_t weight_bytes, scale_bytes;  // of one matrix
  int64_t outputs, x_inputs, k_padded, n_padded;
  int group;
  int64_t rows, splits;
  InputRows x;
  OutputRows y;
  float* partials;  // [batch, splits, rows, n_padded]; null where splits is 1
  CopySteps steps;  // of the kernel, not the caller
};

// Enqueues the products: into y, or into partials where args.splits is not 1.
void RunBf16(const KernelArgs& args, int64_t batch, Stream stream);
void RunFp8(const KernelArgs& args, int64_t batch, Stream stream);
void RunInt8(const KernelArgs& args, int64_t batch, Stream stream);
void RunInt4(const KernelArgs& args, int64_t batch, Stream stream);

}  // namespace tandem::gpu_worker::cuda::portable
