#include "gpu_worker/backend/cuda/kernels/linear/linear_kernels.h"
#include "gpu_worker/backend/cuda/kernels/linear/store.h"
#include "gpu_worker/backend/cuda/simt/launch.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kLanes = 16;  // of a sum, see lib/kernels/linear.h

struct ReferenceArgs {
  const unsigned char* weights;
  const unsigned char* scales;
  int64_t weight_bytes, scale_bytes;  // of one matrix
  int64_t outputs, inputs, k_padded, n_padded;
  int group;
  InputRows x;
  OutputRows y;
};

template <WeightKind kKind>
struct Weights {
  const unsigned char* weights;
  const unsigned char* scales;
  int64_t k_padded, n_padded;
  int group;

  // fp8: the code's number, without its block's scale.
  __device__ __forceinline__ float At(int64_t k, int64_t n) const {
    if constexpr (kKind == WeightKind::kF32) {
      return reinterpret_cast<const float*>(weights)[F32Place(k, n, k_padded)];
    } else if constexpr (kKind == WeightKind::kBf16) {
      return FromBf16(reinterpret_cast<const Bf16*>(weights)[Bf16Place(k, n, n_padded)]);
    } else if constexpr (kKind == WeightKind::kFp8) {
      return FromE4m3(weights[Fp8Place(k, n, n_padded)]);
    } else {
      constexpr int kBits = kKind == WeightKind::kInt8 ? 8 : 4;
      const kernels::MarlinPlace place = kernels::MarlinCodePlace(kBits, k, n, n_padded);
      const uint32_t word = reinterpret_cast<const uint32_t*>(weights)[place.word];
      const int code = static_cast<int>(word >> place.shift & ((1u << kBits) - 1));
      const Bf16 scale =
          reinterpret_cast<const Bf16*>(scales)[GroupScalePlace(group, k, n, k_padded, n_padded)];
      return RoundToBf16(static_cast<float>(code - (1 << (kBits - 1))) * FromBf16(scale));
    }
  }
};

// An input's number; fp8: without its run's scale.
template <WeightKind kKind>
__device__ __forceinline__ float NumberAt(const InputRows& x, int64_t matrix, int64_t row,
                                          int64_t k) {
  if constexpr (kKind == WeightKind::kFp8) {
    return FromE4m3(static_cast<const uint8_t*>(x.x)[matrix * x.batch_stride + row * x.stride + k]);
  } else {
    return InputAt(x, matrix, row, k);
  }
}

// The tree of lib/kernels: l and l + kWidth, then half as far apart.
template <int kWidth>
__device__ __forceinline__ void SumPairs(float (&sum)[kLanes]) {
#pragma unroll
  for (int l = 0; l < kWidth; ++l) sum[l] += sum[l + kWidth];
  if constexpr (kWidth > 1) SumPairs<kWidth / 2>(sum);
}

// One thread an output of a row: 16 sums of every 16th product, then a tree over them. fp8: the 16
// sums of a block of 128 are promoted, scaled, into those of the row.
template <WeightKind kKind>
__global__ void __launch_bounds__(kThreads, 8) ReferenceLinearKernel(ReferenceArgs args) {
  const int64_t n_blocks = (args.outputs + kThreads - 1) / kThreads;
  const int64_t row = blockIdx.x / n_blocks;
  const int64_t n = blockIdx.x % n_blocks * kThreads + threadIdx.x;
  const int64_t matrix = blockIdx.z;
  if (n >= args.outputs) return;
  const Weights<kKind> weights = {args.weights + matrix * args.weight_bytes,
                                  args.scales + matrix * args.scale_bytes, args.k_padded,
                                  args.n_padded, args.group};
  float total[kLanes] = {}, part[kLanes] = {};
  for (int64_t k = 0; k < args.inputs; k += kLanes) {
#pragma unroll
    for (int l = 0; l < kLanes; ++l) {
      if (k + l >= args.inputs) continue;
      part[l] = fmaf(NumberAt<kKind>(args.x, matrix, row, k + l), weights.At(k + l, n), part[l]);
    }
    if constexpr (kKind == WeightKind::kFp8) {
      if ((k + kLanes) % kFp8ScaleBlock != 0 && k + kLanes < args.inputs) continue;
      const int64_t x_at = matrix * args.x.batch_stride + row * args.x.stride + k;
      const float scale =
          args.x.scales[x_at / kFp8ScaleBlock] *
          reinterpret_cast<const float*>(weights.scales)[Fp8ScalePlace(k, n, args.k_padded)];
#pragma unroll
      for (int l = 0; l < kLanes; ++l) {
        total[l] = fmaf(part[l], scale, total[l]);
        part[l] = 0.0f;
      }
    }
  }
  float sum[kLanes];
#pragma unroll
  for (int l = 0; l < kLanes; ++l) sum[l] = kKind == WeightKind::kFp8 ? total[l] : part[l];
  SumPairs<kLanes / 2>(sum);
  StoreAt(args.y, matrix, row, n, sum[0]);
}

template <WeightKind kKind>
void Run(const DeviceMatrix& w, const ReferenceArgs& args, int64_t rows, Stream stream) {
  const int64_t n_blocks = (w.outputs + kThreads - 1) / kThreads;
  const dim3 grid(static_cast<unsigned>(n_blocks * rows), 1, static_cast<unsigned>(w.batch));
  Launch(ReferenceLinearKernel<kKind>, grid, kThreads, 0, stream, args);
}

}  // namespace

void LinearReference(const DeviceMatrix& w, const InputRows& x, const OutputRows& y, int64_t rows,
                     Stream stream) {
  const ReferenceArgs args = {static_cast<const unsigned char*>(w.weights),
                              static_cast<const unsigned char*>(w.scales),
                              w.weight_bytes,
                              w.scale_bytes,
                              w.outputs,
                              w.inputs,
                              RoundUpTo(w.inputs, kInputsMultiple),
                              RoundUpTo(w.outputs, kOutputsMultiple),
                              w.format.group,
                              x,
                              y};
  switch (w.format.kind) {
    case WeightKind::kF32:
      return Run<WeightKind::kF32>(w, args, rows, stream);
    case WeightKind::kBf16:
      return Run<WeightKind::kBf16>(w, args, rows, stream);
    case WeightKind::kFp8:
      return Run<WeightKind::kFp8>(w, args, rows, stream);
    case WeightKind::kInt8:
      return Run<WeightKind::kInt8>(w, args, rows, stream);
    case WeightKind::kInt4:
      return Run<WeightKind::kInt4>(w, args, rows, stream);
  }
}

}  // namespace tandem::gpu_worker::cuda
