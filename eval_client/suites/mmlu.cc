#include "eval_client/suites/mmlu.h"

#include <algorithm>
#include <array>
#include <filesystem>
#include <span>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "eval_client/suites/choice_prompt.h"
#include "eval_client/suites/csv.h"
#include "eval_client/suites/digest.h"
#include "eval_client/suites/loaded_suite.h"
#include "eval_client/suites/python_random.h"
#include "lib/base/mapped_file.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {
namespace {

namespace fs = std::filesystem;
constexpr std::string_view kSuffix = "_test.csv";
constexpr uint64_t kShuffleSeed = 42;

std::vector<std::string> TestFiles(const fs::path& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string name = entry.path().filename().string();
    if (name.size() > kSuffix.size() && name.ends_with(kSuffix)) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<Question> MakeQuestion(const std::string& subject, size_t row_index,
                                      const CsvRow& row) {
  const std::string id = absl::StrFormat("%s/test/%d", subject, row_index);
  if (row.size() != kChoices + 2) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: expected question, 4 choices and a letter, found %d fields", id, row.size()));
  }
  const std::string& letter = row.back();
  if (letter.size() != 1 || letter[0] < 'A' || letter[0] > 'D') {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s: expected an answer A to D, found '%s'", id, letter));
  }
  std::array<std::string, kChoices> choices;
  std::copy(row.begin() + 1, row.end() - 1, choices.begin());
  return Question{
      .id = id, .subject = subject, .prompt = ChoicePrompt(row[0], choices), .gold = letter};
}

absl::Status AppendFile(const fs::path& path, std::vector<Question>* questions,
                        std::string* data_text) {
  TANDEM_ASSIGN_OR_RETURN(base::MappedFile file, base::MappedFile::Open(path.string()));
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  const std::string name = path.filename().string();
  absl::StrAppend(data_text, name, "  ", Sha256Hex(text), "\n");
  auto rows = ParseCsv(text);
  if (!rows.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), ": ", rows.status().message()));
  }
  const std::string subject = name.substr(0, name.size() - kSuffix.size());
  for (size_t i = 0; i < rows->size(); ++i) {
    TANDEM_ASSIGN_OR_RETURN(Question question, MakeQuestion(subject, i, (*rows)[i]));
    questions->push_back(std::move(question));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<Question>> ReadMmluTest(const std::string& directory,
                                                   const MmluExpectation& expectation,
                                                   std::string* data_text) {
  fs::path folder = directory;
  std::vector<std::string> names = TestFiles(folder);
  if (names.empty()) names = TestFiles(folder = fs::path(directory) / "test");
  if (static_cast<int>(names.size()) != expectation.subjects) {
    return absl::InvalidArgumentError(absl::StrFormat("%s: expected %d files *_test.csv, found %d",
                                                      directory, expectation.subjects,
                                                      names.size()));
  }
  std::vector<Question> questions;
  for (const std::string& name : names) {
    TANDEM_RETURN_IF_ERROR(AppendFile(folder / name, &questions, data_text));
  }
  if (static_cast<int>(questions.size()) != expectation.rows) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "%s: expected %d questions, found %d", directory, expectation.rows, questions.size()));
  }
  return questions;
}

absl::StatusOr<std::unique_ptr<Suite>> LoadMmlu(const std::string& directory, int limit,
                                                const MmluExpectation& expectation) {
  std::string data_text;
  TANDEM_ASSIGN_OR_RETURN(std::vector<Question> questions,
                          ReadMmluTest(directory, expectation, &data_text));
  PythonRandom(kShuffleSeed).Shuffle(questions);
  return std::make_unique<LoadedSuite>("mmlu", std::move(questions), limit, AnswerParser::kLastChar,
                                       Sha256Hex(data_text));
}

}  // namespace tandem::eval
