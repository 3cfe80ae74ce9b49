// The MMLU-Pro suite: TIGER-Lab's test questions in the order of the published thousand-question
// benchmark.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "eval_client/suites/suite.h"

namespace tandem::eval {

inline constexpr int kMmluProTestRows = 12032;

// options.data: a folder or file as rows.h finds them, rows with question_id, question, options (3
// to 10), answer (a letter) and category, in the published order. Shuffled and limited as MMLU is.
// Variants:
//   seed      the script's prompts to the byte (the default)
//   stripped  without the white space around options. Data sets of before January 2026 have a space
//             in front of 470 right options and of no wrong one, which gives them away.
// `rows_expected` is for tests.
absl::StatusOr<std::unique_ptr<Suite>> LoadMmluPro(const SuiteOptions& options,
                                                   int rows_expected = kMmluProTestRows);

}  // namespace tandem::eval
