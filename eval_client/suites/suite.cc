#include "eval_client/suites/suite.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "eval_client/suites/digest.h"
#include "eval_client/suites/gsm8k.h"
#include "eval_client/suites/humaneval.h"
#include "eval_client/suites/mmlu.h"
#include "eval_client/suites/mmlu_pro.h"
#include "eval_client/suites/quiz.h"

namespace tandem::eval {

namespace {

// Empty for a letter asked by chat under the run's own limits: digests of such suites stay what
// they were before there were others.
std::string BeyondThePrompt(const Question& question) {
  std::string text;
  if (question.kind != AnswerKind::kLetter) text += KindName(question.kind) + '\0';
  if (question.form == PromptForm::kText) text += std::string("text") + '\0';
  for (const std::string& stop : question.stop) text += "stop " + stop + '\0';
  if (question.max_tokens > 0) absl::StrAppend(&text, "max_tokens ", question.max_tokens);
  if (question.temperature) absl::StrAppend(&text, "temperature ", *question.temperature);
  for (const std::string* code :
       {&question.code.code_before, &question.code.test, &question.code.entry_point}) {
    if (!code->empty()) text += *code + '\0';
  }
  return text;
}

}  // namespace

const std::vector<std::string>& SuiteNames() {
  static const std::vector<std::string> names = {"quiz", "mmlu", "mmlu_pro", "gsm8k", "humaneval"};
  return names;
}

absl::StatusOr<std::unique_ptr<Suite>> LoadSuite(const SuiteOptions& options) {
  if (options.name == "quiz") return LoadQuiz(options);
  if (std::find(SuiteNames().begin(), SuiteNames().end(), options.name) == SuiteNames().end()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "expected a suite of ", absl::StrJoin(SuiteNames(), ", "), ", found '", options.name, "'"));
  }
  if (options.data.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the suite ", options.name, " needs --data"));
  }
  if (options.name == "mmlu") return LoadMmlu(options);
  if (options.name == "mmlu_pro") return LoadMmluPro(options);
  if (options.name == "gsm8k") return LoadGsm8k(options);
  return LoadHumanEval(options);
}

std::string PromptsDigest(const std::vector<Question>& questions) {
  std::string all;
  for (const Question& question : questions) {
    all += question.id + '\0' + question.prompt + '\0' + question.gold + '\0' +
           BeyondThePrompt(question);
  }
  return Sha256Hex(all);
}

uint64_t QuestionSeed(uint64_t run_seed, const std::string& question_id) {
  const auto digest = Sha256(absl::StrCat(run_seed, "/", question_id));
  uint64_t seed = 0;
  for (int i = 7; i >= 0; --i) seed = seed << 8 | digest[i];
  return seed;
}

}  // namespace tandem::eval
