// The HumanEval suite: Python functions to write, each judged by running its tests.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "eval_client/suites/suite.h"

namespace tandem::eval {

// options.data: a folder or file as rows.h finds them (also HumanEval.jsonl.gz), rows with task_id,
// prompt, test and entry_point. All tasks in file order, options.samples times each, asked as
// KTransformers' humaneval/eval_api.py does: one user message, temperature 0.6, up to 3000 tokens
// (what its score.py gives the server). With several samples the id ends in "#<sample>", counted
// from 0.
absl::StatusOr<std::unique_ptr<Suite>> LoadHumanEval(const SuiteOptions& options);

// What its evaluation.py makes of an answer: tabs become four spaces, code fences are dropped, and
// everything from a main block or an example of use on is cut off.
std::string HumanEvalCode(const std::string& answer);

// The program that decides: the task's code, the answer's, the tests, and a call of them.
std::string HumanEvalProgram(const CodeCheck& check, const std::string& answer);

}  // namespace tandem::eval
