// The sampler: from logits to the next token, and log probabilities. Pure functions; the order of
// the steps is that of proto/sampling.proto: logit bias, penalties, temperature, top-k, top-p,
// min-p, draw.
//
// A token is found from a whole row or from the most likely tokens of it. Both run the same code,
// which walks from the most likely token on; where the walk would leave the tokens that are known,
// there is no answer, and never another one.
#pragma once

#include <cstdint>
#include <optional>
#include <span>

#include "absl/status/status.h"
#include "gpu_worker/backend/row_logits.h"
#include "gpu_worker/engine/penalties.h"
#include "proto/sampling.pb.h"

namespace tandem::gpu_worker {

// INVALID_ARGUMENT names a parameter outside its range (expected and found).
absl::Status CheckSampling(const sampling::v1::SamplingParams& params, int64_t vocab_size);

// Temperature 0: the highest adjusted logit, the lowest id on a tie. Otherwise one draw from the
// kept tokens, walked from the most likely on (lower id first on a tie), keyed by (seed,
// tokens.size()). Penalties count the last `tokens` only. Shares of the whole vocabulary are of
// WeightSum's sum.
uint32_t SampleToken(const SampleInput& input);

// Whether the draw depends on the sum over the whole vocabulary.
bool NeedsWeightSum(const sampling::v1::SamplingParams& params, int64_t vocab_size);

// What is known of a row after bias and penalties: its most likely tokens in order, highest first,
// with nothing missing between them.
struct KnownTokens {
  std::span<const TokenLogit> best;
  int64_t vocab = 0;  // best may be all of it
  // WeightSum of the row at the parameters' temperature, where NeedsWeightSum.
  uint64_t weight_sum = 0;
};

// SampleToken's token where what is known decides it. position: SampleToken's tokens.size().
std::optional<uint32_t> SampleFromBest(const sampling::v1::SamplingParams& params,
                                       const KnownTokens& known, uint64_t position);

// DATA_LOSS when a logit is NaN or infinite: such a row must not become a token.
absl::Status CheckLogits(std::span<const float> logits);
// The same from BestLogits::not_finite.
absl::Status CheckFinite(uint32_t not_finite);

// The log of the sum of exp(logit) over a row, from its highest logit and WeightSum(row, highest,
// 1): within 2^-20 of the exact one, by the roundings of (logit - highest) and of kernels::Exp.
double LogSum(float highest, uint64_t weight_sum);

// Log probabilities under the raw logits at temperature 1: of the chosen token, of the most likely
// ones and of those asked for by id.
sampling::v1::PositionLogprobs LogprobsOf(double log_sum, const TokenLogit& chosen,
                                          std::span<const TokenLogit> top,
                                          std::span<const TokenLogit> listed = {});
// The same from a whole row: of `token`, of the `top` most likely tokens and of the `listed` ones.
sampling::v1::PositionLogprobs Logprobs(std::span<const float> logits, uint32_t token, int64_t top,
                                        std::span<const uint32_t> listed = {});

}  // namespace tandem::gpu_worker
