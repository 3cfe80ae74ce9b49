#include "gpu_worker/backend/cuda/kernels/linear/linear_kernels.h"
#include "gpu_worker/backend/cuda/kernels/linear/store.h"
#include "gpu_worker/backend/cuda/simt/launch.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kWarps = kThreads / kWarpThreads;

struct F32Args {
  const float* weights;   // [n_padded, k_padded]
  int64_t weight_values;  // of one matrix
  int64_t outputs, inputs, k_padded, rows;
  InputRows x;
  OutputRows y;
};

// A block makes kOutputs outputs of kRows rows; thread t adds the products of inputs t, t + 128,
// ... and the block adds the threads, both in one order for every kRows and kOutputs. One row: as
// many blocks as there are outputs, since 256 of them (a router) are few for a GPU. More rows: each
// weight and input that is loaded serves four products.
template <int kOutputs, int kRows>
__global__ void __launch_bounds__(kThreads) F32LinearKernel(F32Args args) {
  float* const scratch = reinterpret_cast<float*>(SharedMemory());  // [kOutputs * kRows, kWarps]
  const int64_t n0 = static_cast<int64_t>(blockIdx.x) * kOutputs;
  const int64_t row0 = static_cast<int64_t>(blockIdx.y) * kRows;
  const int64_t matrix = blockIdx.z;
  // Outputs and rows behind the last are the last ones again: computed, not stored.
  const float* w[kOutputs];
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {
    const int64_t n = n0 + o < args.outputs ? n0 + o : args.outputs - 1;
    w[o] = args.weights + matrix * args.weight_values + F32Place(0, n, args.k_padded);
  }
  int64_t row[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) row[r] = row0 + r < args.rows ? row0 + r : args.rows - 1;
  float sums[kOutputs][kRows] = {};
#pragma unroll 4
  for (int64_t k = threadIdx.x; k < args.inputs; k += kThreads) {
    float x[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) x[r] = InputAt(args.x, matrix, row[r], k);
#pragma unroll
    for (int o = 0; o < kOutputs; ++o) {
      const float weight = w[o][k];
#pragma unroll
      for (int r = 0; r < kRows; ++r) sums[o][r] = fmaf(x[r], weight, sums[o][r]);
    }
  }
#pragma unroll
  for (int o = 0; o < kOutputs; ++o) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      const float sum = BlockSum(sums[o][r], scratch + (o * kRows + r) * kWarps);
      if (threadIdx.x != 0 || n0 + o >= args.outputs || row0 + r >= args.rows) continue;
      StoreAt(args.y, matrix, row0 + r, n0 + o, sum);
    }
  }
}

template <int kOutputs, int kRows>
void Run(const F32Args& args, int64_t batch, Stream stream) {
  const dim3 grid(static_cast<unsigned>((args.outputs + kOutputs - 1) / kOutputs),
                  static_cast<unsigned>((args.rows + kRows - 1) / kRows),
                  static_cast<unsigned>(batch));
  Launch(F32LinearKernel<kOutputs, kRows>, grid, kThreads,
         kOutputs * kRows * kWarps * sizeof(float), stream, args);
}

}  // namespace

void LinearPortableF32(const PortableArgs& args, Stream stream) {
  const DeviceMatrix& w = args.w;
  const F32Args kernel = {static_cast<const float*>(w.weights),
                          w.weight_bytes / static_cast<int64_t>(sizeof(float)),
                          w.outputs,
                          w.inputs,
                          RoundUpTo(w.inputs, kInputsMultiple),
                          args.rows,
                          args.x,
                          args.y};
  if (args.rows == 1) return Run<1, 1>(kernel, w.batch, stream);
  Run<4, 4>(kernel, w.batch, stream);
}

}  // namespace tandem::gpu_worker::cuda
