// RowAnswers: tokens and log probabilities of rows of logits, asked of whoever has them. Of most
// rows only the best tokens and a few numbers leave the device; a row that those do not decide is
// read whole. The answers are bit for bit those of SampleToken and Logprobs on whole rows.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "gpu_worker/backend/row_logits.h"
#include "gpu_worker/engine/sampler.h"

namespace tandem::gpu_worker {

struct RowAnswer {
  absl::Status status;  // CheckLogits of the row; nothing else is there if it is not OK
  uint32_t token = 0;
  std::optional<sampling::v1::PositionLogprobs> logprobs;  // where the parameters ask for them
};

// The next token of every row of `logits`; rows[i].logits is not looked at. whole_rows, if not
// null: counts the rows that had to be read whole.
std::vector<RowAnswer> NextTokens(RowLogits& logits, int64_t vocab,
                                  std::span<const SampleInput> rows, int64_t* whole_rows = nullptr);

// Log probabilities at consecutive positions, one a row of `logits`: of the token next[i] and of
// the `top` most likely ones. next may be shorter than the rows, whose last then only have to be
// finite. DATA_LOSS as CheckLogits of the first row that has it; logprobs then means nothing.
absl::Status PromptLogprobs(RowLogits& logits, int64_t vocab, int64_t rows,
                            std::span<const uint32_t> next, int64_t top,
                            std::vector<sampling::v1::PositionLogprobs>* logprobs);

}  // namespace tandem::gpu_worker
