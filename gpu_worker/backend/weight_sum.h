// The sum of a row's weights, as the sampler and log probabilities want it. Here for logits in host
// memory; kernels/rows/pick_logits.cu does the same on a device.
#pragma once

#include <cstdint>
#include <span>

namespace tandem::gpu_worker {

// Sum over all tokens of WeightSteps(exp((logit - highest) / temperature)) modulo 2^64, exp being
// kernels::Exp, each operation rounded to f32. temperature > 0, all finite. It is the sum that it
// looks like where no logit is above `highest` and there are at most 2^18 of them; a token above it
// adds what WeightSteps makes of its weight.
uint64_t WeightSum(std::span<const float> logits, float highest, float temperature);

}  // namespace tandem::gpu_worker
