#include "gpu_worker/backend/cuda/kernels/linear/linear_kernels.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"
#include "lib/kernels/fp8_linear.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int kWarpsPerBlock = 4;
constexpr int kPerLane = static_cast<int>(kFp8ScaleBlock) / kWarpThreads;

constexpr uint32_t kInfinityBits = 0x7f800000u, kSmallestNormalBits = 0x00800000u;

__device__ __forceinline__ uint32_t LargestOfWarp(uint32_t value) {
  for (int distance = kWarpThreads / 2; distance > 0; distance /= 2) {
    const uint32_t other = __shfl_xor_sync(kFullWarp, value, distance);
    value = other > value ? other : value;
  }
  return value;
}

// A run of a row that is quantized already, its numbers written out.
__device__ __forceinline__ void WriteNumbers(const PrepareInputsArgs& args, int64_t run,
                                             int64_t row, int64_t block, Bf16* to) {
  const uint8_t* const codes = args.x_fp8.codes + run * kFp8ScaleBlock;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int k = LaneId() + i * kWarpThreads;
    const uint32_t bits = __float_as_uint(FromE4m3(codes[k]));
    to[k / 16 * 16 + Fp8InputPlace(k % 16)] = static_cast<Bf16>(bits >> 16);
  }
  if (LaneId() == 0) args.scales[block * args.scale_rows + row] = args.x_fp8.scales[run];
}

// One warp a run of 128 inputs of a row. Lane l takes inputs l, l + 32, ...
__global__ void __launch_bounds__(kWarpsPerBlock* kWarpThreads)
    PrepareInputsKernel(PrepareInputsArgs args) {
  const int64_t blocks = RoundUpTo(args.inputs, kInputsMultiple) / kFp8ScaleBlock;
  const int64_t run = static_cast<int64_t>(blockIdx.x) * kWarpsPerBlock + WarpId();
  if (run >= args.rows * blocks) return;
  const int64_t row = run / blocks, block = run % blocks;
  const int64_t matrix = blockIdx.z;
  Bf16* const to = args.numbers + ((matrix * args.rows + row) * blocks + block) * kFp8ScaleBlock;
  if (args.x_fp8.codes != nullptr) return WriteNumbers(args, run, row, block, to);
  const auto* const x =
      static_cast<const Bf16*>(args.x.x) + matrix * args.x.batch_stride + row * args.x.stride;
  float values[kPerLane];
  // As integers, magnitudes are ordered as floats are, infinity and NaN last.
  uint32_t largest = 0;
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int64_t k = block * kFp8ScaleBlock + LaneId() + i * kWarpThreads;
    values[i] = k < args.inputs ? FromBf16(x[k]) : 0.0f;
    const uint32_t magnitude = __float_as_uint(values[i]) & 0x7fffffffu;
    largest = magnitude > largest ? magnitude : largest;
  }
  if (!args.quantize) {
#pragma unroll
    for (int i = 0; i < kPerLane; ++i) {
      to[LaneId() + i * kWarpThreads] = static_cast<Bf16>(__float_as_uint(values[i]) >> 16);
    }
    return;
  }
  largest = LargestOfWarp(largest);
  float scale = __uint_as_float(largest) / kernels::kFp8Max;
  bool zero = false;
  if (largest >= kInfinityBits) {
    scale = __uint_as_float(0x7fc00000u);
    zero = true;
  } else if (__float_as_uint(scale) < kSmallestNormalBits) {
    scale = 0.0f;
    zero = true;
  }
#pragma unroll
  for (int i = 0; i < kPerLane; ++i) {
    const int k = LaneId() + i * kWarpThreads;
    const float number = zero ? 0.0f : FromE4m3(ToE4m3(values[i] / scale));
    to[k / 16 * 16 + Fp8InputPlace(k % 16)] = static_cast<Bf16>(__float_as_uint(number) >> 16);
  }
  if (LaneId() == 0) args.scales[(matrix * blocks + block) * args.scale_rows + row] = scale;
}

}  // namespace

void PrepareInputs(const PrepareInputsArgs& args, Stream stream) {
  const int64_t runs = args.rows * RoundUpTo(args.inputs, kInputsMultiple) / kFp8ScaleBlock;
  const dim3 grid(static_cast<unsigned>((runs + kWarpsPerBlock - 1) / kWarpsPerBlock), 1,
                  static_cast<unsigned>(args.batch));
  Launch(PrepareInputsKernel, grid, kWarpsPerBlock * kWarpThreads, 0, stream, args);
}

}  // namespace tandem::gpu_worker::cuda
