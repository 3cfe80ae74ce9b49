#include "gpu_worker/engine/logit_needs.h"

#include <algorithm>

namespace tandem::gpu_worker {
namespace {

using sampling::v1::SamplingParams;

// How many of the most likely tokens can decide the draw; above best_max: only the row can.
int64_t DeciderCount(const SamplingParams& p, int64_t best_max, int64_t vocab, bool touched) {
  const bool some_kept = p.top_k() > 0 && p.top_k() < vocab;
  if (p.temperature() > 0.0f && some_kept && p.top_k() > best_max) return p.top_k();
  // Touched tokens may leave the best ones; the more of those are known the better.
  if (touched) return best_max;
  if (p.temperature() == 0.0f) return 1;
  return some_kept ? p.top_k() : best_max;
}

}  // namespace

bool WantsLogprobs(const SamplingParams& p) {
  return p.logprobs() || p.top_logprobs() > 0 || !p.logprob_token_ids().empty();
}

LogitNeeds NeedsOf(const SampleInput& input, int64_t vocab) {
  const SamplingParams& p = *input.params;
  const int64_t best_max = std::min(kBestLogitsMax, vocab);
  LogitNeeds needs;
  if (TouchesLogits(p)) needs.touched = TouchedTokens(input);
  needs.log_sum = WantsLogprobs(p);
  needs.weight_sum = NeedsWeightSum(p, vocab);
  needs.best =
      std::max<int64_t>(DeciderCount(p, best_max, vocab, !needs.touched.empty()), p.top_logprobs());
  const bool whole =
      needs.best > best_max || static_cast<int64_t>(needs.touched.size()) > kTouchedMax;
  return whole ? LogitNeeds{.whole = true, .touched = {}} : needs;
}

}  // namespace tandem::gpu_worker
