#include "gpu_worker/backend/cuda/kernels/linear/cublaslt.h"
#include "gpu_worker/backend/cuda/kernels/linear/pack.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int kThreads = 256;

struct alignas(16) Unit {
  uint32_t words[4];
};

// 16 bytes of one output's inputs, contiguous on both sides (pack.h). Threads of a warp take 8
// outputs by 4 units, so that they read core matrices as they lie.
template <bool kFp8>
__global__ void __launch_bounds__(kThreads)
    PlainWeightsKernel(const unsigned char* packed, int64_t outputs, int64_t n_padded,
                       int64_t units, unsigned char* weights) {
  constexpr int64_t kValues = kFp8 ? 16 : 8, kBytes = kFp8 ? 1 : 2;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t unit = index / 32 % ((units + 3) / 4) * 4 + index % 32 / 8;
  const int64_t n = index / 32 / ((units + 3) / 4) * 8 + index % 8;
  if (n >= outputs || unit >= units) return;
  const int64_t k = unit * kValues;
  const int64_t place = kFp8 ? Fp8Place(k, n, n_padded) : Bf16Place(k, n, n_padded) * kBytes;
  *reinterpret_cast<Unit*>(weights + (n * units + unit) * 16) =
      *reinterpret_cast<const Unit*>(packed + place);
}

__global__ void __launch_bounds__(kThreads)
    PlainWeightScalesKernel(const float* packed, int64_t blocks, int64_t blocks_padded,
                            int64_t count, float* scales) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t row = i / blocks_padded, block = i % blocks_padded;
  scales[i] = block < blocks ? packed[row * blocks + block] : 0.0f;
}

__global__ void __launch_bounds__(kThreads)
    TransposeScalesKernel(const float* scales, int64_t rows, int64_t blocks, float* transposed) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < rows * blocks) transposed[i] = scales[i % rows * blocks + i / rows];
}

unsigned BlocksFor(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

}  // namespace

void PlainWeights(const DeviceMatrix& w, void* weights, Stream stream) {
  const bool fp8 = w.format.kind == WeightKind::kFp8;
  TANDEM_CHECK(fp8 || w.format.kind == WeightKind::kBf16);
  TANDEM_CHECK_EQ(w.inputs % (fp8 ? 16 : 8), 0);
  const int64_t units = w.inputs / (fp8 ? 16 : 8);
  const int64_t threads = (w.outputs + 7) / 8 * ((units + 3) / 4) * 32;
  Launch(fp8 ? PlainWeightsKernel<true> : PlainWeightsKernel<false>, BlocksFor(threads), kThreads,
         0, stream, static_cast<const unsigned char*>(w.weights), w.outputs,
         RoundUpTo(w.outputs, kOutputsMultiple), units, static_cast<unsigned char*>(weights));
}

void PlainWeightScales(const DeviceMatrix& w, float* scales, Stream stream) {
  TANDEM_CHECK(w.format.kind == WeightKind::kFp8);
  const int64_t padded = CublasLtBlocks(w.inputs), blocks = (w.inputs + 127) / 128;
  const int64_t count = (w.outputs + 127) / 128 * padded;
  Launch(PlainWeightScalesKernel, BlocksFor(count), kThreads, 0, stream,
         static_cast<const float*>(w.scales), blocks, padded, count, scales);
}

void TransposeScales(const float* scales, int64_t rows, int64_t blocks, float* transposed,
                     Stream stream) {
  Launch(TransposeScalesKernel, BlocksFor(rows * blocks), kThreads, 0, stream, scales, rows, blocks,
         transposed);
}

}  // namespace tandem::gpu_worker::cuda
