#include "gpu_worker/backend/weight_sum.h"

#include <algorithm>

#include "gpu_worker/backend/weight_steps.h"
#include "lib/kernels/activation.h"

namespace tandem::gpu_worker {
namespace {

// Logits at a time: what is made of them stays in the first-level cache.
constexpr int64_t kBlock = 1024;

}  // namespace

uint64_t WeightSum(std::span<const float> logits, float highest, float temperature) {
  float scaled[kBlock], weights[kBlock];
  const int64_t count = static_cast<int64_t>(logits.size());
  uint64_t sum = 0;
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const int64_t size = std::min(kBlock, count - begin);
    const float* const from = logits.data() + begin;
    for (int64_t i = 0; i < size; ++i) scaled[i] = (from[i] - highest) / temperature;
    kernels::ExpShifted(scaled, 0.0f, weights, size);
    for (int64_t i = 0; i < size; ++i) sum += WeightSteps(weights[i]);
  }
  return sum;
}

}  // namespace tandem::gpu_worker
