#include "eval_client/suites/code_judge.h"

#include <algorithm>

#include "eval_client/suites/humaneval.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {

absl::StatusOr<std::unique_ptr<CodeJudge>> CodeJudge::Create(const SandboxLimits& limits) {
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<Sandbox> sandbox, Sandbox::Create(limits));
  return std::unique_ptr<CodeJudge>(new CodeJudge(std::move(sandbox)));
}

absl::StatusOr<std::string> CodeJudge::Verdict(const Question& question,
                                               const std::string& answer) {
  TANDEM_ASSIGN_OR_RETURN(const SandboxResult result,
                          sandbox_->Run(HumanEvalProgram(question.code, answer)));
  return result.Verdict();
}

bool NeedsCodeJudge(const Suite& suite) {
  return std::any_of(suite.questions().begin(), suite.questions().end(),
                     [](const Question& q) { return q.kind == AnswerKind::kCode; });
}

}  // namespace tandem::eval
