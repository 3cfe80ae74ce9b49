// The sampler: from one row of logits to the next token, and log probabilities. Pure functions; the
// order of the steps is that of proto/sampling.proto: logit bias, penalties, temperature, top-k,
// top-p, min-p, draw.
#pragma once

#include <cstdint>
#include <span>

#include "absl/status/status.h"
#include "proto/sampling.pb.h"

namespace tandem::gpu_worker {

struct SampleInput {
  std::span<const float> logits;  // [vocab], finite
  const sampling::v1::SamplingParams* params = nullptr;
  std::span<const uint32_t> tokens;  // the sequence so far, prompt first
  int64_t prompt_tokens = 0;         // of them
};

// INVALID_ARGUMENT names a parameter outside its range (expected and found).
absl::Status CheckSampling(const sampling::v1::SamplingParams& params, int64_t vocab_size);

// Temperature 0: the highest adjusted logit, the lowest id on a tie. Otherwise one draw from the
// kept tokens, walked from the most likely on (lower id first on a tie), keyed by (seed,
// tokens.size()). Penalties count the last `tokens` only.
uint32_t SampleToken(const SampleInput& input);

// DATA_LOSS when a logit is NaN or infinite: such a row must not become a token.
absl::Status CheckLogits(std::span<const float> logits);

// Log probabilities under the raw logits at temperature 1, summed in f64: of `token`, of the `top`
// most likely tokens and of the `listed` ones.
sampling::v1::PositionLogprobs Logprobs(std::span<const float> logits, uint32_t token, int64_t top,
                                        std::span<const uint32_t> listed = {});

}  // namespace tandem::gpu_worker
