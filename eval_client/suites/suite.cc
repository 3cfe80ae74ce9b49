#include "eval_client/suites/suite.h"

#include "absl/strings/str_cat.h"
#include "eval_client/suites/digest.h"
#include "eval_client/suites/mmlu.h"
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

std::vector<std::string> SuiteNames() { return {"mmlu", "quiz"}; }

absl::StatusOr<std::unique_ptr<Suite>> LoadSuite(const SuiteOptions& options) {
  if (options.name == "mmlu") {
    return LoadMmlu(options.data, options.limit > 0 ? options.limit : kMmluQuestionsDefault);
  }
  if (options.name == "quiz") return LoadQuiz(options.data, options.limit);
  return absl::InvalidArgumentError(
      absl::StrCat("expected the suite mmlu or quiz, found '", options.name, "'"));
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
