// For every backend: what an engine answers against the same backend's whole rows of logits.
#pragma once

#include "tests/engine/harness.h"

namespace tandem::gpu_worker {

// A prompt and three generated tokens of each of 16 sequences, with parameters of all kinds, and
// the prompt's log probabilities of every other one. EXPECTs that every token and log probability
// is bit for bit that of SampleToken and Logprobs on the logits that `options`' backend gives for
// the same tokens. Needs 64 rows a step and 16 KV pages.
void ExpectAnswersOfWholeRows(const ModelWeights& weights, const HarnessOptions& options);

}  // namespace tandem::gpu_worker
