#include "eval_client/suites/suite.h"

#include "absl/strings/str_cat.h"
#include "eval_client/suites/digest.h"
#include "eval_client/suites/mmlu.h"
#include "eval_client/suites/quiz.h"

namespace tandem::eval {

absl::StatusOr<std::unique_ptr<Suite>> LoadSuite(const std::string& name, const std::string& data,
                                                 int limit) {
  if (name == "mmlu") return LoadMmlu(data, limit > 0 ? limit : kMmluQuestionsDefault);
  if (name == "quiz") return LoadQuiz(data, limit);
  return absl::InvalidArgumentError(
      absl::StrCat("expected the suite mmlu or quiz, found '", name, "'"));
}

std::string PromptsDigest(const std::vector<Question>& questions) {
  std::string all;
  for (const Question& question : questions) {
    all += question.id + '\0' + question.prompt + '\0' + question.gold + '\0';
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
