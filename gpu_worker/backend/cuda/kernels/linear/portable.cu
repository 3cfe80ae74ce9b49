#include "gpu_worker/backend/cuda/kernels/linear/portable_launch.h"
#include "gpu_worker/backend/cuda/kernels/linear/store.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

using portable::KernelArgs;

constexpr int kSumThreads = 256;

// y = partials[0] + partials[1] + ..., in that order. One thread an output of a row.
__global__ void __launch_bounds__(kSumThreads) SumPartialsKernel(KernelArgs args) {
  const int64_t n_blocks = (args.outputs + kSumThreads - 1) / kSumThreads;
  const int64_t row = blockIdx.x / n_blocks;
  const int64_t n = blockIdx.x % n_blocks * kSumThreads + threadIdx.x;
  const int64_t matrix = blockIdx.z;
  if (n >= args.outputs) return;
  const float* const from =
      args.partials + (matrix * args.splits * args.rows + row) * args.n_padded + n;
  float sum = from[0];
#pragma unroll 4
  for (int64_t split = 1; split < args.splits; ++split) {
    sum += from[split * args.rows * args.n_padded];
  }
  StoreAt(args.y, matrix, row, n, sum);
}

void RunKind(WeightKind kind, const KernelArgs& args, int64_t batch, Stream stream) {
  switch (kind) {
    case WeightKind::kF32:
      TANDEM_CHECK(false);  // LinearPortableF32's
      return;
    case WeightKind::kBf16:
      return portable::RunBf16(args, batch, stream);
    case WeightKind::kFp8:
      return portable::RunFp8(args, batch, stream);
    case WeightKind::kInt8:
      return portable::RunInt8(args, batch, stream);
    case WeightKind::kInt4:
      return portable::RunInt4(args, batch, stream);
  }
}

}  // namespace

int64_t PartialBytes(const DeviceMatrix& w, int64_t rows, int64_t splits) {
  if (splits == 1) return 0;
  return w.batch * splits * rows * RoundUpTo(w.outputs, kOutputsMultiple) * 4;
}

void LinearPortable(const PortableArgs& args, Stream stream) {
  const DeviceMatrix& w = args.w;
  const KernelArgs kernel = {.weights = static_cast<const unsigned char*>(w.weights),
                             .scales = static_cast<const unsigned char*>(w.scales),
                             .weight_bytes = w.weight_bytes,
                             .scale_bytes = w.scale_bytes,
                             .outputs = w.outputs,
                             .x_inputs = args.x_inputs,
                             .k_padded = RoundUpTo(w.inputs, kInputsMultiple),
                             .n_padded = RoundUpTo(w.outputs, kOutputsMultiple),
                             .group = w.format.group,
                             .rows = args.rows,
                             .splits = args.splits,
                             .x = args.x,
                             .y = args.y,
                             .partials = args.splits == 1 ? nullptr : args.partials,
                             .steps = {}};
  RunKind(w.format.kind, kernel, w.batch, stream);
  if (args.splits == 1) return;
  const int64_t n_blocks = (w.outputs + kSumThreads - 1) / kSumThreads;
  const dim3 grid(static_cast<unsigned>(n_blocks * args.rows), 1, static_cast<unsigned>(w.batch));
  Launch(SumPartialsKernel, grid, kSumThreads, 0, stream, kernel);
}

}  // namespace tandem::gpu_worker::cuda
