// The GSM8K suite: school arithmetic in words, whose answer is a number after some reasoning.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "eval_client/suites/suite.h"

namespace tandem::eval {

// options.data: a folder or file as rows.h finds them, rows with question and answer ("... ####
// 18"). All questions in file order, greedy, as text to be continued. Variants:
//   sosp     as KTransformers' SOSP'25 artifact asks (the default): 8 solved questions (`shots` of
//            them) with reasoning, up to 1024 tokens, ended by a new line with "Question", read by
//            kAnswerPhrase
//   lm-eval  as lm-eval's task gsm8k (version 3) asks: 5 solved questions (`shots`) drawn for each
//            question from the part "train", which must lie beside the test part, up to 256 tokens,
//            read by kHashes
absl::StatusOr<std::unique_ptr<Suite>> LoadGsm8k(const SuiteOptions& options);

}  // namespace tandem::eval
