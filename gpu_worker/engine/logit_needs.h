// What a row's token and log probabilities take of its logits. A pure function of the request and
// the sequence, apart from all arithmetic, so that it can be tested alone.
#pragma once

#include <cstdint>
#include <vector>

#include "gpu_worker/engine/sampler.h"

namespace tandem::gpu_worker {

// Touched tokens of a row that are asked for one by one; with more of them the row comes whole.
inline constexpr int64_t kTouchedMax = 4096;

struct LogitNeeds {
  bool whole = false;             // all logits, and nothing of what follows
  int64_t best = 1;               // of the most likely tokens
  std::vector<uint32_t> touched;  // single tokens: those that bias or penalties change
  bool weight_sum = false;        // at the temperature
  bool log_sum = false;           // the weights' sum at temperature 1
};

// Whether the answer has log probabilities of the next token.
bool WantsLogprobs(const sampling::v1::SamplingParams& params);

// input.logits is not looked at. `best` is as much as may help: where the draw can end anywhere, as
// many as there are at once, and the walk may still leave them, in which case the row is needed
// after all.
LogitNeeds NeedsOf(const SampleInput& input, int64_t vocab);

}  // namespace tandem::gpu_worker
