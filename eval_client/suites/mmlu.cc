#include "eval_client/suites/mmlu.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "eval_client/suites/choice_prompt.h"
#include "eval_client/suites/loaded_suite.h"
#include "eval_client/suites/mmlu_rows.h"
#include "eval_client/suites/python_random.h"
#include "eval_client/suites/python_text.h"
#include "eval_client/suites/rows.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {
namespace {

using RowsBySubject = std::map<std::string, std::vector<MmluRow>>;

absl::StatusOr<MmluPart> ReadExpected(const std::string& directory,
                                      const MmluExpectation& expectation) {
  TANDEM_ASSIGN_OR_RETURN(MmluPart part, ReadMmluPart(directory, "test"));
  if (part.subjects != expectation.subjects) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: expected %d files *_test.csv, or JSON Lines or Parquet with as many subjects, found "
        "%d",
        directory, expectation.subjects, part.subjects));
  }
  if (static_cast<int>(part.rows.size()) != expectation.rows) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: expected %d questions, found %d", directory, expectation.rows, part.rows.size()));
  }
  return part;
}

std::string HendrycksExample(const MmluRow& row) {
  std::string text = row.question;
  for (size_t i = 0; i < row.choices.size(); ++i) {
    text += absl::StrFormat("\n%c. %s", static_cast<char>('A' + i), row.choices[i]);
  }
  return text + "\nAnswer:";
}

// The script writes a space before each word of the subject, so there are two after "about".
std::string HendrycksPrompt(const MmluRow& row, const std::vector<MmluRow>& solved, int shots) {
  std::string prompt =
      absl::StrCat("The following are multiple choice questions (with answers) about  ",
                   PythonReplace(row.subject, "_", " "), ".\n\n");
  for (int i = 0; i < shots; ++i) {
    absl::StrAppend(&prompt, HendrycksExample(solved[i]), " ", solved[i].letter, "\n\n");
  }
  return prompt + HendrycksExample(row);
}

Question ZeroShot(const MmluRow& row) {
  return {.id = row.id,
          .subject = row.subject,
          .prompt = ChoicePrompt(row.question, row.choices),
          .gold = row.letter};
}

absl::StatusOr<RowsBySubject> ReadSolved(const std::string& directory, std::string* files_text) {
  TANDEM_ASSIGN_OR_RETURN(MmluPart dev, ReadMmluPart(directory, "dev"));
  *files_text += dev.files_text;
  RowsBySubject solved;
  for (MmluRow& row : dev.rows) solved[row.subject].push_back(std::move(row));
  return solved;
}

absl::StatusOr<Question> FewShot(const MmluRow& row, const RowsBySubject& solved, int shots) {
  const auto examples = solved.find(row.subject);
  const int found = examples == solved.end() ? 0 : static_cast<int>(examples->second.size());
  if (found < shots) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "expected %d questions in dev/%s_dev.csv, found %d", shots, row.subject, found));
  }
  return Question{.id = row.id,
                  .subject = row.subject,
                  .prompt = HendrycksPrompt(row, examples->second, shots),
                  .gold = row.letter,
                  .form = PromptForm::kText,
                  .stop = {"\n"}};
}

}  // namespace

absl::StatusOr<std::vector<Question>> ReadMmluTest(const std::string& directory,
                                                   const MmluExpectation& expectation,
                                                   std::string* data_text) {
  TANDEM_ASSIGN_OR_RETURN(const MmluPart part, ReadExpected(directory, expectation));
  *data_text += part.files_text;
  std::vector<Question> questions;
  for (const MmluRow& row : part.rows) questions.push_back(ZeroShot(row));
  return questions;
}

absl::StatusOr<std::unique_ptr<Suite>> LoadMmlu(const SuiteOptions& options,
                                                const MmluExpectation& expectation) {
  TANDEM_RETURN_IF_ERROR(
      CheckOptions(options, {"seed"}, kMmluShotsMax, /*has_samples=*/false).status());
  const std::string directory = DataFolder(options.data, "mmlu");
  TANDEM_ASSIGN_OR_RETURN(MmluPart part, ReadExpected(directory, expectation));
  RowsBySubject solved;
  if (options.shots > 0) {
    TANDEM_ASSIGN_OR_RETURN(solved, ReadSolved(directory, &part.files_text));
  }
  PythonRandom(kShuffleSeed).Shuffle(part.rows);
  std::vector<Question> questions;
  for (const MmluRow& row : part.rows) {
    if (options.shots <= 0) {
      questions.push_back(ZeroShot(row));
      continue;
    }
    TANDEM_ASSIGN_OR_RETURN(Question question, FewShot(row, solved, options.shots));
    questions.push_back(std::move(question));
  }
  SuiteOptions limited = options;
  if (limited.limit == 0) limited.limit = kMmluQuestionsDefault;
  // The few-shot form wants " A", which the published script's last character reads as well.
  return MakeLoadedSuite(limited, std::move(questions), AnswerParser::kLastChar, part.files_text);
}

}  // namespace tandem::eval
