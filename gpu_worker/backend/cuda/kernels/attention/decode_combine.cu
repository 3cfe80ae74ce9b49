// Merges the parts of rows that were cut, and writes what rows without keys get.
#include <cmath>

#include "gpu_worker/backend/cuda/kernels/attention/decode_kernels.h"
#include "gpu_worker/backend/cuda/kernels/attention/decode_plan.h"
#include "gpu_worker/backend/cuda/kernels/attention/merge.h"
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

// One row and head a block: its parts merged from left to right, as a decode kernel that has all of
// them does it. Parts without keys weigh nothing, and all of them together give zeros.
__global__ void __launch_bounds__(kCombineThreads) CombineDecodeKernel(CombineParameters p) {
  auto* const maxima = reinterpret_cast<float*>(SharedMemory());  // [kPartsMax]
  auto* const sums = maxima + kPartsMax;                          // [kPartsMax]
  auto* const keep = sums + kPartsMax;                            // [kPartsMax]
  auto* const add = keep + kPartsMax;                             // [kPartsMax]
  const int64_t pair = blockIdx.x;
  const int head = static_cast<int>(pair % p.heads), thread = static_cast<int>(threadIdx.x);
  const int32_t* const row_words =
      p.plan + kPlanHeaderWords + p.plan[kPlanBlocks] + 1 + 2 * (pair / p.heads);
  const int64_t slot = row_words[0] < 0 ? 0 : row_words[0];
  const int parts = row_words[1];
  if (parts == 1) return;
  const int64_t slot_floats = SlotFloats(p.heads, p.latent);
  const float* const from = p.partial + slot * slot_floats;
  if (thread < parts) {
    const float* const numbers = from + thread * slot_floats + int64_t{p.heads} * p.latent + head;
    maxima[thread] = numbers[0];
    sums[thread] = numbers[p.heads];
  }
  __syncthreads();
  if (thread < parts) {  // each part's factors on its own: a maximum depends on no order
    float before = -INFINITY;
    for (int part = 0; part < thread; ++part) before = fmaxf(before, maxima[part]);
    const MergeFactors factors(before, maxima[thread]);
    keep[thread] = factors.keep;
    add[thread] = factors.add;
  }
  __syncthreads();
  float max = -INFINITY, sum = 0.0f;
  for (int part = 0; part < parts; ++part) {
    max = fmaxf(max, maxima[part]);
    sum = Merged(sum, keep[part], sums[part], add[part]);
  }
  const bool none = max == -INFINITY;
  const float inverse = 1.0f / sum;
  for (int c = 4 * thread; c < p.latent; c += 4 * kCombineThreads) {
    // Without parts there may be no workspace to point into.
    const float* const values = none ? from : from + int64_t{head} * p.latent + c;
    FourFloats total = {};
    if (!none && add[0] != 0.0f) total = *reinterpret_cast<const FourFloats*>(values);
#pragma unroll 4
    for (int part = 1; part < parts; ++part) {
      const auto mean = *reinterpret_cast<const FourFloats*>(values + part * slot_floats);
      for (int i = 0; i < 4; ++i) {
        total.v[i] = Merged(total.v[i], keep[part], mean.v[i], add[part]);
      }
    }
    FourBf16 rounded;
    for (int i = 0; i < 4; ++i) rounded.v[i] = none ? Bf16{0} : ToBf16(total.v[i] * inverse);
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
         4 * kPartsMax * sizeof(float), stream, p);
}

}  // namespace tandem::gpu_worker::cuda
