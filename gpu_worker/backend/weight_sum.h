// The sum of a row's weights, as the sampler and log probabilities want it. Here for logits in host
// memory; kernels/rows/weight_sums.cu does the same on a device.
#pragma once

#include <cstdint>
#include <span>

namespace tandem::gpu_worker {

// Sum over all tokens of WeightSteps(exp((logit - highest) / temperature)), exp being
// kernels::Exp, each operation rounded to f32. temperature > 0; all finite; at most 2^18 logits.
// highest: at least every logit, or no weight above it reaches kWeightMax: the sum is then modulo
// 2^64.
uint64_t WeightSum(std::span<const float> logits, float highest, float temperature);

}  // namespace tandem::gpu_worker
