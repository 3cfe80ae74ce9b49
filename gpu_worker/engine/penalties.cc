#include "gpu_worker/engine/penalties.h"

#include <algorithm>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "gpu_worker/backend/weight_steps.h"
#include "lib/kernels/activation.h"

namespace tandem::gpu_worker {
namespace {

using sampling::v1::SamplingParams;

bool HasPenalty(float penalty, float neutral) { return penalty != 0.0f && penalty != neutral; }
bool HasRepetitionPenalty(const SamplingParams& p) {
  return HasPenalty(p.repetition_penalty(), 1.0f);
}
bool HasAnswerPenalty(const SamplingParams& p) {
  return p.presence_penalty() != 0.0f || p.frequency_penalty() != 0.0f;
}

// logits[token]: of every token that bias or penalties touch.
template <typename Logits>
void Adjust(const SampleInput& input, Logits& logits) {
  const SamplingParams& p = *input.params;
  for (const auto& [token, bias] : p.logit_bias()) logits[token] += bias;
  if (HasRepetitionPenalty(p)) {
    absl::flat_hash_set<uint32_t> seen;
    seen.reserve(std::min(input.tokens.size(), logits.size()));
    for (const uint32_t token : input.tokens) {
      if (!seen.insert(token).second) continue;
      float& logit = logits[token];
      logit = logit > 0 ? logit / p.repetition_penalty() : logit * p.repetition_penalty();
    }
  }
  if (!HasAnswerPenalty(p)) return;
  absl::flat_hash_map<uint32_t, int64_t> counts;
  for (const uint32_t token : input.tokens.subspan(input.prompt_tokens)) ++counts[token];
  for (const auto& [token, count] : counts) {
    logits[token] -= p.presence_penalty() + p.frequency_penalty() * static_cast<float>(count);
  }
}

}  // namespace

std::vector<float> AdjustRow(const SampleInput& input) {
  std::vector<float> logits(input.logits.begin(), input.logits.end());
  Adjust(input, logits);
  return logits;
}

bool TouchesLogits(const SamplingParams& p) {
  return !p.logit_bias().empty() || HasRepetitionPenalty(p) || HasAnswerPenalty(p);
}

std::vector<uint32_t> TouchedTokens(const SampleInput& input) {
  const SamplingParams& p = *input.params;
  std::vector<uint32_t> touched;
  for (const auto& [token, bias] : p.logit_bias()) touched.push_back(token);
  std::span<const uint32_t> penalized;
  if (HasAnswerPenalty(p)) penalized = input.tokens.subspan(input.prompt_tokens);
  if (HasRepetitionPenalty(p)) penalized = input.tokens;
  touched.insert(touched.end(), penalized.begin(), penalized.end());
  std::sort(touched.begin(), touched.end());
  touched.erase(std::unique(touched.begin(), touched.end()), touched.end());
  return touched;
}

std::vector<TokenLogit> AdjustTouched(const SampleInput& input,
                                      std::span<const TokenLogit> touched) {
  absl::flat_hash_map<uint32_t, float> logits;
  logits.reserve(touched.size());
  for (const TokenLogit& token : touched) logits[token.id] = token.logit;
  Adjust(input, logits);
  std::vector<TokenLogit> adjusted;
  adjusted.reserve(touched.size());
  for (const TokenLogit& token : touched) adjusted.push_back({token.id, logits.at(token.id)});
  return adjusted;
}

std::vector<TokenLogit> AdjustBest(std::span<const TokenLogit> best,
                                   std::span<const TokenLogit> adjusted, int64_t vocab) {
  const auto is_adjusted = [&](uint32_t id) {
    const auto by_id = [](const TokenLogit& token, uint32_t value) { return token.id < value; };
    const auto found = std::lower_bound(adjusted.begin(), adjusted.end(), id, by_id);
    return found != adjusted.end() && found->id == id;
  };
  std::vector<TokenLogit> known;
  for (const TokenLogit& token : best) {
    if (!is_adjusted(token.id)) known.push_back(token);
  }
  const bool all = static_cast<int64_t>(best.size()) == vocab;
  for (const TokenLogit& token : adjusted) {
    if (all || !MoreLikely(best.back(), token)) known.push_back(token);
  }
  std::sort(known.begin(), known.end(), MoreLikely);
  return known;
}

uint64_t AdjustWeightSum(std::span<const TokenLogit> touched, std::span<const TokenLogit> adjusted,
                         float temperature, float highest, uint64_t raw_sum) {
  const auto steps_of = [&](float logit) {
    return WeightSteps(kernels::Exp((logit - highest) / temperature));
  };
  uint64_t sum = raw_sum;
  // A raw logit may be far above `highest`: whatever it added to the sum comes off again.
  for (size_t i = 0; i < touched.size(); ++i) {
    sum += steps_of(adjusted[i].logit) - steps_of(touched[i].logit);
  }
  return sum;
}

}  // namespace tandem::gpu_worker
