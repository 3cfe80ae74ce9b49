#include "gpu_worker/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_cat.h"
#include "gpu_worker/engine/philox.h"
#include "lib/base/check.h"
#include "lib/kernels/activation.h"

namespace tandem::gpu_worker {
namespace {

using sampling::v1::SamplingParams;

// True when token a is more likely than b: higher logit, lower id on a tie.
struct MoreLikely {
  std::span<const float> logits;
  bool operator()(uint32_t a, uint32_t b) const {
    return logits[a] != logits[b] ? logits[a] > logits[b] : a < b;
  }
};

// The tokens from the most likely on, each found when asked for: a draw rarely needs more than a
// few of a large vocabulary.
class BestFirst {
 public:
  explicit BestFirst(std::span<const float> logits)
      : less_likely_{MoreLikely{logits}}, heap_(logits.size()) {
    std::iota(heap_.begin(), heap_.end(), 0u);
    std::make_heap(heap_.begin(), heap_.end(), less_likely_);
  }
  bool empty() const { return heap_.empty(); }
  uint32_t Next() {
    std::pop_heap(heap_.begin(), heap_.end(), less_likely_);
    const uint32_t token = heap_.back();
    heap_.pop_back();
    return token;
  }

 private:
  struct LessLikely {
    MoreLikely more;
    bool operator()(uint32_t a, uint32_t b) const { return more(b, a); }
  };
  LessLikely less_likely_;
  std::vector<uint32_t> heap_;
};

bool HasPenalty(float penalty, float neutral) { return penalty != 0.0f && penalty != neutral; }

void ApplyPenalties(const SampleInput& input, std::vector<float>& logits) {
  const SamplingParams& p = *input.params;
  if (HasPenalty(p.repetition_penalty(), 1.0f)) {
    std::vector<bool> seen(logits.size(), false);
    for (const uint32_t token : input.tokens) {
      if (seen[token]) continue;
      seen[token] = true;
      float& logit = logits[token];
      logit = logit > 0 ? logit / p.repetition_penalty() : logit * p.repetition_penalty();
    }
  }
  if (p.presence_penalty() == 0.0f && p.frequency_penalty() == 0.0f) return;
  absl::flat_hash_map<uint32_t, int64_t> counts;
  for (const uint32_t token : input.tokens.subspan(input.prompt_tokens)) ++counts[token];
  for (const auto& [token, count] : counts) {
    logits[token] -= p.presence_penalty() + p.frequency_penalty() * static_cast<float>(count);
  }
}

std::vector<float> Adjusted(const SampleInput& input) {
  std::vector<float> logits(input.logits.begin(), input.logits.end());
  for (const auto& [token, bias] : input.params->logit_bias()) logits[token] += bias;
  ApplyPenalties(input, logits);
  return logits;
}

struct Candidate {
  uint32_t token;
  double weight;  // exp((logit - highest) / temperature)
};

// The first tokens of `order` that top-k, top-p and min-p keep. top-p counts shares of what top-k
// kept; `all_weights` is the sum over the whole vocabulary.
std::vector<Candidate> Keep(const SamplingParams& p, BestFirst order,
                            std::span<const float> weights, double all_weights) {
  std::vector<Candidate> kept;
  const size_t k = p.top_k() == 0 ? weights.size() : std::min<size_t>(p.top_k(), weights.size());
  double total = all_weights;
  if (k < weights.size()) {
    total = 0;
    BestFirst copy = order;
    for (size_t i = 0; i < k; ++i) total += weights[copy.Next()];
  }
  const double reach = p.top_p() > 0.0f && p.top_p() < 1.0f ? p.top_p() * total : HUGE_VAL;
  double sum = 0;
  while (kept.size() < k && sum < reach) {
    const uint32_t token = order.Next();
    const double weight = weights[token];
    // min-p: the most likely token has weight 1.
    if (!kept.empty() && weight < p.min_p()) break;
    kept.push_back({token, weight});
    sum += weight;
  }
  return kept;
}

uint32_t DrawFrom(std::span<const Candidate> kept, double uniform) {
  double total = 0;
  for (const Candidate& c : kept) total += c.weight;
  double left = uniform * total;
  for (const Candidate& c : kept) {
    left -= c.weight;
    if (left < 0) return c.token;
  }
  return kept.back().token;  // rounding at the very end of the walk
}

// Without a filter nothing is kept apart: the walk goes on until the draw is reached.
uint32_t DrawFromAll(BestFirst order, std::span<const float> weights, double all_weights,
                     double uniform) {
  double left = uniform * all_weights;
  uint32_t token = 0;
  while (!order.empty()) {
    token = order.Next();
    left -= weights[token];
    if (left < 0) break;
  }
  return token;
}

bool HasFilter(const SamplingParams& p) {
  return p.top_k() > 0 || (p.top_p() > 0.0f && p.top_p() < 1.0f) || p.min_p() > 0.0f;
}

absl::Status OutOfRange(const char* name, const char* range, double found) {
  return absl::InvalidArgumentError(
      absl::StrCat("sampling.", name, ": expected ", range, ", found ", found));
}

}  // namespace

absl::Status CheckSampling(const SamplingParams& p, int64_t vocab_size) {
  const auto within = [](float value, float low, float high) {
    return value >= low && value <= high;  // false for NaN
  };
  // Limits far beyond use that keep every product finite in f32.
  if (!within(p.temperature(), 0, 100))
    return OutOfRange("temperature", "0 to 100", p.temperature());
  if (!within(p.top_p(), 0, 1)) return OutOfRange("top_p", "0 to 1", p.top_p());
  if (!within(p.min_p(), 0, 1)) return OutOfRange("min_p", "0 to 1", p.min_p());
  if (!within(p.repetition_penalty(), 0, 100)) {
    return OutOfRange("repetition_penalty", "0 to 100", p.repetition_penalty());
  }
  if (!within(p.presence_penalty(), -100, 100)) {
    return OutOfRange("presence_penalty", "-100 to 100", p.presence_penalty());
  }
  if (!within(p.frequency_penalty(), -100, 100)) {
    return OutOfRange("frequency_penalty", "-100 to 100", p.frequency_penalty());
  }
  for (const auto& [token, bias] : p.logit_bias()) {
    if (token >= vocab_size) return OutOfRange("logit_bias", "a token of the vocabulary", token);
    if (!within(bias, -1e4f, 1e4f)) return OutOfRange("logit_bias", "-10000 to 10000", bias);
  }
  if (p.top_logprobs() > vocab_size) {
    return OutOfRange("top_logprobs", "at most the vocabulary", p.top_logprobs());
  }
  for (const uint32_t token : p.logprob_token_ids()) {
    if (token >= vocab_size) {
      return OutOfRange("logprob_token_ids", "a token of the vocabulary", token);
    }
  }
  return absl::OkStatus();
}

uint32_t SampleToken(const SampleInput& input) {
  TANDEM_CHECK(!input.logits.empty());
  const SamplingParams& p = *input.params;
  std::vector<float> logits = Adjusted(input);
  const auto best = std::max_element(logits.begin(), logits.end());  // the first of equals
  if (p.temperature() == 0.0f) return static_cast<uint32_t>(best - logits.begin());
  const float highest = *best;
  for (float& logit : logits) logit = (logit - highest) / p.temperature();
  std::vector<float> weights(logits.size());
  kernels::ExpShifted(logits.data(), 0.0f, weights.data(), static_cast<int64_t>(logits.size()));
  const double all = std::accumulate(weights.begin(), weights.end(), 0.0);
  const double uniform = UniformAt(p.seed(), input.tokens.size());
  if (!HasFilter(p)) return DrawFromAll(BestFirst(logits), weights, all, uniform);
  return DrawFrom(Keep(p, BestFirst(logits), weights, all), uniform);
}

absl::Status CheckLogits(std::span<const float> logits) {
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!std::isfinite(logits[i])) {
      return absl::DataLossError(absl::StrCat("the logit of token ", i, " is not finite"));
    }
  }
  return absl::OkStatus();
}

sampling::v1::PositionLogprobs Logprobs(std::span<const float> logits, uint32_t token, int64_t top,
                                        std::span<const uint32_t> listed) {
  const double highest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - highest);
  const double log_sum = highest + std::log(sum);
  const auto fill = [&](uint32_t id, sampling::v1::TokenLogprob* entry) {
    TANDEM_CHECK_LT(id, logits.size());
    entry->set_token_id(id);
    entry->set_logprob(static_cast<float>(logits[id] - log_sum));
  };
  sampling::v1::PositionLogprobs result;
  fill(token, result.mutable_chosen());
  for (const uint32_t id : listed) fill(id, result.add_listed());
  if (top == 0) return result;
  BestFirst order(logits);
  for (int64_t i = 0; i < top && !order.empty(); ++i) fill(order.Next(), result.add_top());
  return result;
}

}  // namespace tandem::gpu_worker
