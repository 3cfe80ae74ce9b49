// The most likely tokens of one row of logits in host memory.
#pragma once

#include <cstdint>
#include <span>

#include "gpu_worker/backend/row_logits.h"

namespace tandem::gpu_worker {

// best[i] = the i-th most likely of the tokens first_id + [0, logits.size()), kNoTokenLogit behind
// the last. Returns the lowest id whose logit is NaN or infinite, else kNoToken; where there is
// one, what `best` holds means nothing.
uint32_t BestOfRow(std::span<const float> logits, uint32_t first_id, std::span<TokenLogit> best);

}  // namespace tandem::gpu_worker
