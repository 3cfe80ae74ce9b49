// Logit bias and penalties: the part of sampling that changes logits. It touches few tokens, so the
// order of a row after it can be told from the row's best tokens and the touched ones. Pure
// functions.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "gpu_worker/backend/row_logits.h"
#include "proto/sampling.pb.h"

namespace tandem::gpu_worker {

struct SampleInput {
  std::span<const float> logits;  // [vocab], finite
  const sampling::v1::SamplingParams* params = nullptr;
  std::span<const uint32_t> tokens;  // the sequence so far, prompt first
  int64_t prompt_tokens = 0;         // of them
};

// logits [vocab] of input as bias and penalties change them.
std::vector<float> AdjustRow(const SampleInput& input);

// Whether bias or penalties change logits.
bool TouchesLogits(const sampling::v1::SamplingParams& params);
// Tokens whose logits they change, ids ascending; logits are not looked at. At most as many as
// there are biases and tokens.
std::vector<uint32_t> TouchedTokens(const SampleInput& input);

// What those tokens have after bias and penalties, from their raw logits, in the same order.
std::vector<TokenLogit> AdjustTouched(const SampleInput& input,
                                      std::span<const TokenLogit> touched);

// The beginning of the order after bias and penalties, from `best`, the beginning of the raw row's
// order, and `adjusted`, AdjustTouched's: a token that is in neither is less likely than the last
// of `best`, so what comes before that one is known. May be empty.
std::vector<TokenLogit> AdjustBest(std::span<const TokenLogit> best,
                                   std::span<const TokenLogit> adjusted, int64_t vocab);

// WeightSum of the row after bias and penalties, from that of the raw one: `raw_sum` is of the
// tokens' raw logits at `temperature`, relative to `highest`, the highest logit after bias and
// penalties. `touched` and `adjusted` are those of AdjustTouched.
uint64_t AdjustWeightSum(std::span<const TokenLogit> touched, std::span<const TokenLogit> adjusted,
                         float temperature, float highest, uint64_t raw_sum);

}  // namespace tandem::gpu_worker
