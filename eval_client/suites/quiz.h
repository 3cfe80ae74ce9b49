// The quiz suite: questions for the small model that ships with the project, one JSON object a
// line.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "eval_client/suites/suite.h"

namespace tandem::eval {

// Lines are {"id": ..., "subject": ..., "question": ..., "choices": [4 strings], "answer": 0 to 3},
// asked in file order; other keys are ignored. INVALID_ARGUMENT names file and line. `limit` > 0
// keeps only the first so many.
absl::StatusOr<std::unique_ptr<Suite>> LoadQuiz(const std::string& path, int limit);

}  // namespace tandem::eval
