// The quiz suite: questions for the small model that ships with the project, one JSON object a
// line.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "eval_client/suites/suite.h"

namespace tandem::eval {

inline constexpr char kQuizDataDefault[] = "models/quiz/quiz_test.jsonl";

// Lines are {"id": ..., "subject": ..., "question": ..., "choices": [4 strings], "answer": 0 to 3},
// asked in file order; other keys are ignored. options.data is such a file or a folder that holds
// one as quiz/quiz_test.jsonl or quiz_test.jsonl. The quiz belongs to the project, so a folder
// without one, such as that of the other suites' data, means the file that ships with it, as no
// data does. INVALID_ARGUMENT names file and line.
absl::StatusOr<std::unique_ptr<Suite>> LoadQuiz(const SuiteOptions& options);

}  // namespace tandem::eval
