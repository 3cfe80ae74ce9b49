#include "gpu_worker/backend/host/router.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "lib/base/check.h"
#include "lib/kernels/activation.h"

namespace tandem::gpu_worker {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();

std::vector<float> Scores(const ModelConfig& config, std::span<const float> logits) {
  std::vector<float> scores(logits.size());
  if (config.scoring_func == ScoringFunc::kSigmoid) {
    std::transform(logits.begin(), logits.end(), scores.begin(), kernels::Sigmoid);
    return scores;
  }
  const float top = *std::max_element(logits.begin(), logits.end());
  kernels::ExpShifted(logits.data(), top, scores.data(), static_cast<int64_t>(logits.size()));
  const float sum = std::accumulate(scores.begin(), scores.end(), 0.0f);
  for (float& score : scores) score /= sum;
  return scores;
}

// Indices of the `count` largest values, largest first, ties by lower index.
std::vector<uint32_t> Largest(std::span<const float> values, int64_t count) {
  std::vector<uint32_t> order(values.size());
  std::iota(order.begin(), order.end(), 0u);
  std::partial_sort(order.begin(), order.begin() + count, order.end(), [&](uint32_t a, uint32_t b) {
    return values[a] != values[b] ? values[a] > values[b] : a < b;
  });
  order.resize(count);
  return order;
}

float GroupScore(const ModelConfig& config, std::span<const float> group) {
  const int64_t best = config.topk_method == TopkMethod::kNoAuxTc
                           ? std::min<int64_t>(2, static_cast<int64_t>(group.size()))
                           : 1;
  float sum = 0;
  for (const uint32_t i : Largest(group, best)) sum += group[i];
  return sum;
}

// Sets the scores of all groups but the topk_group best to minus infinity.
void KeepBestGroups(const ModelConfig& config, std::vector<float>& choice) {
  if (config.n_group <= 1 || config.topk_group >= config.n_group) return;
  const int64_t group_size = static_cast<int64_t>(choice.size()) / config.n_group;
  std::vector<float> group_scores;
  for (int64_t g = 0; g < config.n_group; ++g) {
    group_scores.push_back(
        GroupScore(config, std::span(choice).subspan(g * group_size, group_size)));
  }
  std::vector<bool> kept(config.n_group, false);
  for (const uint32_t g : Largest(group_scores, config.topk_group)) kept[g] = true;
  for (size_t i = 0; i < choice.size(); ++i) {
    if (!kept[i / group_size]) choice[i] = kMinusInfinity;
  }
}

std::vector<uint32_t> Choose(const ModelConfig& config, const std::vector<float>& scores,
                             std::span<const float> bias) {
  std::vector<float> choice = scores;
  if (config.topk_method == TopkMethod::kNoAuxTc) {
    TANDEM_CHECK_EQ(bias.size(), scores.size());
    for (size_t i = 0; i < choice.size(); ++i) choice[i] += bias[i];
  }
  // A NaN (a broken row; its logits are refused later) must not reach a comparison that sorts.
  for (float& c : choice) c = std::isnan(c) ? kMinusInfinity : c;
  if (config.topk_method != TopkMethod::kGreedy) KeepBestGroups(config, choice);
  return Largest(choice, config.num_experts_per_tok);
}

void FinishWeights(const ModelConfig& config, std::vector<float>& weights) {
  const bool normalize = config.norm_topk_prob && weights.size() > 1;
  if (normalize) {
    const float sum = std::accumulate(weights.begin(), weights.end(), 0.0f) + 1e-20f;
    for (float& weight : weights) weight /= sum;
  }
  if (normalize && config.scoring_func == ScoringFunc::kSoftmax) return;
  for (float& weight : weights) weight *= static_cast<float>(config.routed_scaling_factor);
}

}  // namespace

ExpertChoice ChooseExperts(const ModelConfig& config, std::span<const float> logits,
                           std::span<const float> bias, std::span<const uint32_t> forced_ids) {
  TANDEM_CHECK_EQ(static_cast<int64_t>(logits.size()), config.n_routed_experts);
  const std::vector<float> scores = Scores(config, logits);
  ExpertChoice choice;
  choice.ids = forced_ids.empty() ? Choose(config, scores, bias)
                                  : std::vector<uint32_t>(forced_ids.begin(), forced_ids.end());
  for (const uint32_t id : choice.ids) choice.weights.push_back(scores.at(id));
  FinishWeights(config, choice.weights);
  return choice;
}

}  // namespace tandem::gpu_worker
