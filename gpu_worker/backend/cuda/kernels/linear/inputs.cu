#include "gpu_worker/backend/cuda/kernels/linear/linear_kernels.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int kWarpsPerBlock = 4;
constexpr int kRun = static_cast<int>(kInputsMultiple);

// One warp a run of 128 inputs of a row. Lane l takes inputs l, l + 32, ...
__global__ void __launch_bounds__(kWarpsPerBlock* kWarpThreads)
    CopyInputsKernel(InputRows x, int64_t rows, int64_t inputs, Bf16* to) {
  const int64_t runs_of_row = RoundUpTo(inputs, kInputsMultiple) / kRun;
  const int64_t run = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + WarpId();
  if (run >= rows * runs_of_row) return;
  const int64_t row = run / runs_of_row, begin = run % runs_of_row * kRun;
  const int64_t matrix = blockIdx.z;
  const auto* const from = static_cast<const Bf16*>(x.x) + matrix * x.batch_stride + row * x.stride;
  Bf16* const row_to = to + ((matrix * rows + row) * runs_of_row) * kRun;
#pragma unroll
  for (int i = 0; i < kRun; i += kWarpThreads) {
    const int64_t k = begin + LaneId() + i;
    row_to[k] = k < inputs ? from[k] : Bf16{0};
  }
}

}  // namespace

void CopyInputs(const InputRows& x, int64_t rows, int64_t inputs, int64_t batch, uint16_t* to,
                Stream stream) {
  const int64_t runs = rows * RoundUpTo(inputs, kInputsMultiple) / kRun;
  const dim3 grid(static_cast<unsigned>((runs + kWarpsPerBlock - 1) / kWarpsPerBlock), 1,
                  static_cast<unsigned>(batch));
  Launch(CopyInputsKernel, grid, kWarpsPerBlock * kWarpThreads, 0, stream, x, rows, inputs, to);
}

}  // namespace tandem::gpu_worker::cuda
