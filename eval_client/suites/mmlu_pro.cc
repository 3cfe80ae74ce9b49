#include "eval_client/suites/mmlu_pro.h"

#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "eval_client/suites/choice_prompt.h"
#include "eval_client/suites/loaded_suite.h"
#include "eval_client/suites/mmlu.h"
#include "eval_client/suites/python_random.h"
#include "eval_client/suites/python_text.h"
#include "eval_client/suites/rows.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {
namespace {

constexpr size_t kOptionsMin = 3;

absl::StatusOr<Question> MakeQuestion(const nlohmann::json& row, bool strip) {
  const auto number = row.find("question_id");
  if (number == row.end() || !number->is_number_integer()) {
    return absl::InvalidArgumentError("expected an integer \"question_id\"");
  }
  Question question;
  question.id = absl::StrCat(number->get<int64_t>());
  TANDEM_ASSIGN_OR_RETURN(question.subject, StringOf(row, "category"));
  TANDEM_ASSIGN_OR_RETURN(question.gold, StringOf(row, "answer"));
  TANDEM_ASSIGN_OR_RETURN(const std::string text, StringOf(row, "question"));
  TANDEM_ASSIGN_OR_RETURN(std::vector<std::string> options,
                          StringsOf(row, "options", kOptionsMin, kProChoices));
  question.letters = static_cast<int>(options.size());
  const bool good = question.gold.size() == 1 && question.gold[0] >= 'A' &&
                    question.gold[0] < 'A' + question.letters;
  if (!good) {
    return absl::InvalidArgumentError(
        absl::StrFormat("expected \"answer\" from A to %c, found '%s'",
                        static_cast<char>('A' + question.letters - 1), question.gold));
  }
  if (strip) {
    for (std::string& option : options) option = std::string(PythonStrip(option));
  }
  question.prompt = ChoicePrompt(text, options, kProChoices);
  return question;
}

absl::StatusOr<std::vector<Question>> MakeQuestions(const DataSet& set, bool strip) {
  std::vector<Question> questions;
  std::set<std::string> ids;
  for (const auto& row : set.rows) {
    auto question = MakeQuestion(row, strip);
    absl::Status status = question.status();
    if (status.ok() && !ids.insert(question->id).second) {
      status = absl::InvalidArgumentError(absl::StrCat(question->id, " occurs twice"));
    }
    if (!status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("row %d: %s", questions.size(), std::string(status.message())));
    }
    questions.push_back(*std::move(question));
  }
  return questions;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Suite>> LoadMmluPro(const SuiteOptions& options, int rows_expected) {
  TANDEM_ASSIGN_OR_RETURN(const std::string variant,
                          CheckOptions(options, {"seed", "stripped"}, 0, /*has_samples=*/false));
  const std::string folder = DataFolder(options.data, "mmlu_pro");
  TANDEM_ASSIGN_OR_RETURN(const DataSet set, ReadPart(folder, "test"));
  auto questions = MakeQuestions(set, variant == "stripped");
  if (!questions.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(folder, ": ", questions.status().message()));
  }
  if (static_cast<int>(questions->size()) != rows_expected) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: expected %d questions, found %d", folder,
                                                      rows_expected, questions->size()));
  }
  PythonRandom(kShuffleSeed).Shuffle(*questions);
  SuiteOptions limited = options;
  if (limited.limit == 0) limited.limit = kMmluQuestionsDefault;
  return MakeLoadedSuite(limited, *std::move(questions), AnswerParser::kLastChar, set.files_text);
}

}  // namespace tandem::eval
