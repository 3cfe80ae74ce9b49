// Router choice from logits: which experts a row goes to and with what weights, in f32, for the
// three methods of the DeepSeek family. Pure functions of one row, so a test can enumerate ties.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "lib/model/config.h"

namespace tandem::gpu_worker {

struct ExpertChoice {
  std::vector<uint32_t> ids;   // [num_experts_per_tok], best first; ties by lower id
  std::vector<float> weights;  // [num_experts_per_tok]
};

// `logits` [n_routed_experts]; `bias` [n_routed_experts] for kNoAuxTc, else empty. `forced_ids`:
// empty, or the ids to take.
//   kGreedy               top-k of the scores.
//   kGroupLimitedGreedy   groups ranked by their best score; top-k within the topk_group best
//   groups. kNoAuxTc              the same with score + bias, groups ranked by the sum of their two
//   best; weights without bias.
// Weights: scores of the chosen; with norm_topk_prob (and k > 1) divided by their sum + 1e-20.
// DeepSeek-V2 (softmax) applies routed_scaling_factor only when it does not normalize, V3 (sigmoid)
// always.
ExpertChoice ChooseExperts(const ModelConfig& config, std::span<const float> logits,
                           std::span<const float> bias, std::span<const uint32_t> forced_ids);

}  // namespace tandem::gpu_worker
