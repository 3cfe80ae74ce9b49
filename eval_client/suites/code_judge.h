// Says of a program that a model wrote whether it is right, by running it in the sandbox.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "eval_client/sandbox/sandbox.h"
#include "eval_client/suites/suite.h"

namespace tandem::eval {

class CodeJudge {
 public:
  // FAILED_PRECONDITION where there can be no sandbox, in one sentence.
  static absl::StatusOr<std::unique_ptr<CodeJudge>> Create(const SandboxLimits& limits = {});

  // "passed", or how it failed: what Record.verdict holds. An error is the sandbox's. Thread-safe;
  // takes as long as the program, and waits while as many run as there are cores.
  absl::StatusOr<std::string> Verdict(const Question& question, const std::string& answer);

 private:
  explicit CodeJudge(std::unique_ptr<Sandbox> sandbox) : sandbox_(std::move(sandbox)) {}
  const std::unique_ptr<Sandbox> sandbox_;
};

// Whether the suite has questions that only a CodeJudge can judge.
bool NeedsCodeJudge(const Suite& suite);

}  // namespace tandem::eval
