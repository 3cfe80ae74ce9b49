// Merges the parts of rows that were cut, and writes what rows without keys get.
#include <cmath>

#include "gpu_worker/backend/cuda/kernels/attention/decode_kernels.h"
#include "gpu_worker/backend/cuda/kernels/attention/decode_plan.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int kCombineThreads = 128;
static_assert(kCombineThreads >= kPartsMax, "one thread a part reads the log-sums");

struct CombineParameters {
  const int32_t* plan;
  const float* partial;
  int heads, latent;
  Bf16* out;
  float* lse;
};

struct alignas(16) FourFloats {
  float v[4];
};
struct alignas(8) FourBf16 {
  Bf16 v[4];
};

// One row and head a block: out = sum of 2^(l_p - L) mean_p in the order of parts, L = log2 of the
// sum of 2^l_p. Parts without keys (l = -inf) weigh nothing, and all of them together give zeros.
__global__ void __launch_bounds__(kCombineThreads) CombineDecodeKernel(CombineParameters p) {
  auto* const log_sums = reinterpret_cast<float*>(SharedMemory());  // [kPartsMax]
  auto* const weights = log_sums + kPartsMax;                       // [kPartsMax]
  const int64_t pair = blockIdx.x;
  const int head = static_cast<int>(pair % p.heads), thread = static_cast<int>(threadIdx.x);
  const int32_t* const row_words =
      p.plan + kPlanHeaderWords + p.plan[kPlanBlocks] + 1 + 2 * (pair / p.heads);
  const int64_t slot = row_words[0];
  const int parts = row_words[1];
  if (parts == 1) return;
  const int64_t slot_floats = SlotFloats(p.heads, p.latent);
  const float* const from = p.partial + slot * slot_floats;
  if (thread < parts) {
    log_sums[thread] = from[thread * slot_floats + int64_t{p.heads} * p.latent + head];
  }
  __syncthreads();
  float max = -INFINITY, sum = 0.0f;
  for (int part = 0; part < parts; ++part) max = fmaxf(max, log_sums[part]);
  const bool none = max == -INFINITY;
  for (int part = 0; part < parts && !none; ++part) sum += FastExp2(log_sums[part] - max);
  if (thread < parts && !none) weights[thread] = FastExp2(log_sums[thread] - max) / sum;
  __syncthreads();
  for (int c = 4 * thread; c < p.latent; c += 4 * kCombineThreads) {
    FourFloats total = {};
#pragma unroll 4
    for (int part = 0; part < (none ? 0 : parts); ++part) {
      const FourFloats mean = *reinterpret_cast<const FourFloats*>(from + part * slot_floats +
                                                                   int64_t{head} * p.latent + c);
      // A part without keys has an undefined mean.
      if (log_sums[part] == -INFINITY) continue;
      for (int i = 0; i < 4; ++i) total.v[i] += weights[part] * mean.v[i];
    }
    FourBf16 rounded;
    for (int i = 0; i < 4; ++i) rounded.v[i] = ToBf16(total.v[i]);
    *reinterpret_cast<FourBf16*>(p.out + pair * p.latent + c) = rounded;
  }
  if (p.lse != nullptr && thread == 0) p.lse[pair] = none ? -INFINITY : (max + log2f(sum)) * kLn2;
}

}  // namespace

void CombineMlaDecode(const MlaDecodeArgs& args, Stream stream) {
  const CombineParameters p{
      static_cast<const int32_t*>(args.plan), static_cast<const float*>(args.workspace),
      static_cast<int>(args.shape.heads),     static_cast<int>(args.shape.latent),
      static_cast<Bf16*>(args.out),           args.lse};
  Launch(CombineDecodeKernel, static_cast<unsigned>(args.rows * args.shape.heads), kCombineThreads,
         2 * kPartsMax * sizeof(float), stream, p);
}

}  // namespace tandem::gpu_worker::cuda
