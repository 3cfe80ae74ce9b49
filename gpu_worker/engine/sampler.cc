#include "gpu_worker/engine/sampler.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/weight_steps.h"
#include "gpu_worker/backend/weight_sum.h"
#include "gpu_worker/engine/philox.h"
#include "lib/base/check.h"
#include "lib/kernels/activation.h"

namespace tandem::gpu_worker {
namespace {

using sampling::v1::SamplingParams;

// The tokens of a row from the most likely on, each found when asked for: a draw rarely needs more
// than a few of a large vocabulary.
class BestFirst {
 public:
  explicit BestFirst(std::span<const float> logits) : less_likely_{logits}, heap_(logits.size()) {
    std::iota(heap_.begin(), heap_.end(), 0u);
    std::make_heap(heap_.begin(), heap_.end(), less_likely_);
  }
  std::optional<TokenLogit> Next() {
    if (heap_.empty()) return std::nullopt;
    std::pop_heap(heap_.begin(), heap_.end(), less_likely_);
    const uint32_t token = heap_.back();
    heap_.pop_back();
    return less_likely_.at(token);
  }

 private:
  struct LessLikely {
    std::span<const float> logits;
    TokenLogit at(uint32_t token) const { return {token, logits[token]}; }
    bool operator()(uint32_t a, uint32_t b) const { return MoreLikely(at(b), at(a)); }
  };
  LessLikely less_likely_;
  std::vector<uint32_t> heap_;
};

// The same of tokens that are in order already.
class InOrder {
 public:
  explicit InOrder(std::span<const TokenLogit> tokens) : left_(tokens) {}
  std::optional<TokenLogit> Next() {
    if (left_.empty()) return std::nullopt;
    const TokenLogit token = left_.front();
    left_ = left_.subspan(1);
    return token;
  }

 private:
  std::span<const TokenLogit> left_;
};

struct Candidate {
  uint32_t token;
  double weight;  // exp((logit - highest) / temperature)
};

// The tokens of an order with their weights, found as far as somebody looks.
template <typename Order>
class Candidates {
 public:
  Candidates(Order order, float temperature)
      : order_(std::move(order)), temperature_(temperature) {}

  // Null where the order ends before.
  const Candidate* at(size_t i) {
    while (found_.size() <= i) {
      const std::optional<TokenLogit> next = order_.Next();
      if (!next.has_value()) return nullptr;
      if (found_.empty()) highest_ = next->logit;
      found_.push_back({next->id, kernels::Exp((next->logit - highest_) / temperature_)});
    }
    return &found_[i];
  }
  std::span<const Candidate> first(size_t count) const { return std::span(found_).first(count); }

 private:
  Order order_;
  const float temperature_;
  float highest_ = 0;
  std::vector<Candidate> found_;
};

bool HasTopP(const SamplingParams& p) { return p.top_p() > 0.0f && p.top_p() < 1.0f; }
bool HasFilter(const SamplingParams& p) { return p.top_k() > 0 || HasTopP(p) || p.min_p() > 0.0f; }

// How many tokens top-k, top-p and min-p keep, the most likely ones. top-p counts shares of what
// top-k kept; `all_weights` is the sum over the whole vocabulary.
template <typename Order>
std::optional<size_t> Keep(const SamplingParams& p, size_t vocab, double all_weights,
                           Candidates<Order>& candidates) {
  const size_t k = p.top_k() == 0 ? vocab : std::min<size_t>(p.top_k(), vocab);
  double total = all_weights;
  if (k < vocab) {
    total = 0;
    for (size_t i = 0; i < k; ++i) {
      const Candidate* const candidate = candidates.at(i);
      if (candidate == nullptr) return std::nullopt;
      total += candidate->weight;
    }
  }
  const double reach = HasTopP(p) ? p.top_p() * total : HUGE_VAL;
  size_t kept = 0;
  double sum = 0;
  while (kept < k && sum < reach) {
    const Candidate* const candidate = candidates.at(kept);
    if (candidate == nullptr) return std::nullopt;
    // min-p: the most likely token has weight 1.
    if (kept > 0 && candidate->weight < p.min_p()) break;
    sum += candidate->weight;
    ++kept;
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
template <typename Order>
std::optional<uint32_t> DrawFromAll(size_t vocab, double all_weights, double uniform,
                                    Candidates<Order>& candidates) {
  double left = uniform * all_weights;
  for (size_t i = 0;; ++i) {
    const Candidate* const candidate = candidates.at(i);
    if (candidate == nullptr) return std::nullopt;
    left -= candidate->weight;
    if (left < 0 || i + 1 == vocab) return candidate->token;
  }
}

// weight_sum: called where the sum over the whole vocabulary counts.
template <typename Order, typename WeightSumOf>
std::optional<uint32_t> Draw(const SamplingParams& p, Order order, size_t vocab, uint64_t position,
                             WeightSumOf weight_sum) {
  Candidates<Order> candidates(std::move(order), p.temperature());
  const double uniform = UniformAt(p.seed(), position);
  const double all = NeedsWeightSum(p, static_cast<int64_t>(vocab))
                         ? std::ldexp(static_cast<double>(weight_sum()), -kWeightStepBits)
                         : 0.0;
  if (!HasFilter(p)) return DrawFromAll(vocab, all, uniform, candidates);
  const std::optional<size_t> kept = Keep(p, vocab, all, candidates);
  if (!kept.has_value()) return std::nullopt;
  return DrawFrom(candidates.first(*kept), uniform);
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

bool NeedsWeightSum(const SamplingParams& p, int64_t vocab) {
  if (p.temperature() == 0.0f) return false;
  const bool all_kept = p.top_k() == 0 || p.top_k() >= vocab;
  return all_kept && (HasTopP(p) || !HasFilter(p));
}

uint32_t SampleToken(const SampleInput& input) {
  TANDEM_CHECK(!input.logits.empty());
  const SamplingParams& p = *input.params;
  const std::vector<float> logits = AdjustRow(input);
  const auto best = std::max_element(logits.begin(), logits.end());  // the first of equals
  if (p.temperature() == 0.0f) return static_cast<uint32_t>(best - logits.begin());
  const auto weight_sum = [&] { return WeightSum(logits, *best, p.temperature()); };
  return *Draw(p, BestFirst(logits), logits.size(), input.tokens.size(), weight_sum);
}

std::optional<uint32_t> SampleFromBest(const SamplingParams& params, const KnownTokens& known,
                                       uint64_t position) {
  if (known.best.empty()) return std::nullopt;
  if (params.temperature() == 0.0f) return known.best[0].id;
  return Draw(params, InOrder(known.best), static_cast<size_t>(known.vocab), position,
              [&] { return known.weight_sum; });
}

absl::Status CheckFinite(uint32_t not_finite) {
  if (not_finite == kNoToken) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("the logit of token ", not_finite, " is not finite"));
}

absl::Status CheckLogits(std::span<const float> logits) {
  for (size_t i = 0; i < logits.size(); ++i) {
    if (!std::isfinite(logits[i])) return CheckFinite(static_cast<uint32_t>(i));
  }
  return absl::OkStatus();
}

double LogSum(float highest, uint64_t weight_sum) {
  return highest + std::log(std::ldexp(static_cast<double>(weight_sum), -kWeightStepBits));
}

sampling::v1::PositionLogprobs LogprobsOf(double log_sum, const TokenLogit& chosen,
                                          std::span<const TokenLogit> top,
                                          std::span<const TokenLogit> listed) {
  const auto fill = [&](const TokenLogit& token, sampling::v1::TokenLogprob* entry) {
    entry->set_token_id(token.id);
    entry->set_logprob(static_cast<float>(token.logit - log_sum));
  };
  sampling::v1::PositionLogprobs result;
  fill(chosen, result.mutable_chosen());
  for (const TokenLogit& token : listed) fill(token, result.add_listed());
  for (const TokenLogit& token : top) fill(token, result.add_top());
  return result;
}

sampling::v1::PositionLogprobs Logprobs(std::span<const float> logits, uint32_t token, int64_t top,
                                        std::span<const uint32_t> listed) {
  const float highest = *std::max_element(logits.begin(), logits.end());
  const auto at = [&](uint32_t id) {
    TANDEM_CHECK_LT(id, logits.size());
    return TokenLogit{id, logits[id]};
  };
  std::vector<TokenLogit> best, asked;
  for (const uint32_t id : listed) asked.push_back(at(id));
  if (top > 0) {
    BestFirst order(logits);
    std::optional<TokenLogit> next;
    while (static_cast<int64_t>(best.size()) < top && (next = order.Next())) best.push_back(*next);
  }
  return LogprobsOf(LogSum(highest, WeightSum(logits, highest, 1.0f)), at(token), best, asked);
}

}  // namespace tandem::gpu_worker
