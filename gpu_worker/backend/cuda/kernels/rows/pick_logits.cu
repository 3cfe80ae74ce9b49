// What is asked about logits beside the best of them: sums of weights, which are integers, so that
// they may be added in any order, and single logits.
#include "gpu_worker/backend/cuda/kernels/rows/exact_exp.h"
#include "gpu_worker/backend/cuda/kernels/rows/rows.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "gpu_worker/backend/weight_steps.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int kThreads = 256;
// Logits of one block: enough that its one addition to the row's sum does not matter.
constexpr int kPerThread = 16;
constexpr int64_t kChunk = kThreads * kPerThread;

__device__ __forceinline__ unsigned long long WarpTotal(unsigned long long value) {
  for (int distance = 16; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kFullWarp, value, distance);
  }
  return value;
}

__global__ void __launch_bounds__(kThreads)
    WeightSumsKernel(const float* logits, int64_t vocab, const WeightSumAsk* asks,
                     unsigned long long* sums) {
  const WeightSumAsk ask = asks[blockIdx.x];
  const float* const row = logits + ask.row * vocab;
  unsigned long long sum = 0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int64_t id = blockIdx.y * kChunk + i * kThreads + threadIdx.x;
    if (id >= vocab) break;
    const float below = __fsub_rn(row[id], ask.highest);
    // A division by 1 changes nothing and costs more than all the rest.
    const float scaled = ask.temperature == 1.0f ? below : below / ask.temperature;
    sum += WeightSteps(ExactExp(scaled));
  }
  sum = WarpTotal(sum);
  if (LaneId() == 0) atomicAdd(sums + blockIdx.x, sum);
}

__global__ void __launch_bounds__(kThreads)
    PickLogitsKernel(const float* logits, int64_t vocab, const LogitPlace* places, int64_t count,
                     float* values) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i < count) values[i] = logits[places[i].row * vocab + places[i].id];
}

unsigned BlocksFor(int64_t count, int64_t per_block) {
  return static_cast<unsigned>((count + per_block - 1) / per_block);
}

}  // namespace

void WeightSums(const float* logits, int64_t vocab, const WeightSumAsk* asks, int64_t count,
                uint64_t* sums, Stream stream) {
  if (count == 0) return;
  static_assert(sizeof(unsigned long long) == sizeof(uint64_t));
  TANDEM_CHECK_LE(count, int64_t{0x7fffffff});
  FillBytes(sums, 0, count * sizeof(uint64_t), stream);
  if (vocab == 0) return;
  Launch(WeightSumsKernel, dim3(static_cast<unsigned>(count), BlocksFor(vocab, kChunk)), kThreads,
         0, stream, logits, vocab, asks, reinterpret_cast<unsigned long long*>(sums));
}

void PickLogits(const float* logits, int64_t vocab, const LogitPlace* places, int64_t count,
                float* values, Stream stream) {
  if (count == 0) return;
  TANDEM_CHECK_LE(count, int64_t{0x7fffffff});
  Launch(PickLogitsKernel, BlocksFor(count, kThreads), kThreads, 0, stream, logits, vocab, places,
         count, values);
}

}  // namespace tandem::gpu_worker::cuda
