#include "eval_client/suites/quiz.h"

#include <filesystem>
#include <set>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "eval_client/suites/choice_prompt.h"
#include "eval_client/suites/digest.h"
#include "eval_client/suites/loaded_suite.h"
#include "lib/base/mapped_file.h"
#include "lib/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace tandem::eval {
namespace {

using Json = nlohmann::json;

bool IsString(const Json& object, const char* key) {
  return object.contains(key) && object[key].is_string();
}

// The letter for "answer", or nothing when it is not 0 to 3.
std::optional<char> GoldLetter(const Json& object) {
  if (!object.contains("answer") || !object["answer"].is_number_integer()) return std::nullopt;
  const int64_t answer = object["answer"].get<int64_t>();
  if (answer < 0 || answer >= kChoices) return std::nullopt;
  return static_cast<char>('A' + answer);
}

absl::StatusOr<Question> ParseQuestion(std::string_view line) {
  const Json object = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return absl::InvalidArgumentError("expected a JSON object");
  for (const char* key : {"id", "subject", "question"}) {
    if (!IsString(object, key)) {
      return absl::InvalidArgumentError(absl::StrFormat("expected a string \"%s\"", key));
    }
  }
  const Json choices = object.value("choices", Json());
  const std::optional<char> gold = GoldLetter(object);
  if (!choices.is_array() || choices.size() != kChoices) {
    return absl::InvalidArgumentError("expected \"choices\" with 4 strings");
  }
  std::vector<std::string> texts(kChoices);
  for (int i = 0; i < kChoices; ++i) {
    if (!choices[i].is_string()) {
      return absl::InvalidArgumentError("expected \"choices\" with 4 strings");
    }
    texts[i] = choices[i].get<std::string>();
  }
  if (!gold) return absl::InvalidArgumentError("expected \"answer\" from 0 to 3");
  return Question{.id = object["id"].get<std::string>(),
                  .subject = object["subject"].get<std::string>(),
                  .prompt = ChoicePrompt(object["question"].get<std::string>(), texts),
                  .gold = std::string(1, *gold)};
}

absl::StatusOr<std::vector<Question>> ParseLines(std::string_view text) {
  std::vector<Question> questions;
  std::set<std::string> ids;
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.empty()) continue;
    auto question = ParseQuestion(line);
    if (!question.ok()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("line %d: %s", number, std::string(question.status().message())));
    }
    if (!ids.insert(question->id).second) {
      return absl::InvalidArgumentError(
          absl::StrFormat("line %d: id \"%s\" occurs twice", number, question->id));
    }
    questions.push_back(*std::move(question));
  }
  if (questions.empty()) return absl::InvalidArgumentError("expected questions, found none");
  return questions;
}

std::string QuizFile(const std::string& data) {
  std::error_code error;
  if (data.empty()) return kQuizDataDefault;
  if (!std::filesystem::is_directory(data, error)) return data;
  for (const char* inside : {"/quiz/quiz_test.jsonl", "/quiz_test.jsonl"}) {
    if (std::filesystem::exists(data + inside, error)) return data + inside;
  }
  return kQuizDataDefault;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Suite>> LoadQuiz(const SuiteOptions& options) {
  TANDEM_RETURN_IF_ERROR(CheckOptions(options, {"seed"}, 0, /*has_samples=*/false).status());
  const std::string path = QuizFile(options.data);
  TANDEM_ASSIGN_OR_RETURN(base::MappedFile file, base::MappedFile::Open(path));
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  auto questions = ParseLines(text);
  if (!questions.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": ", questions.status().message()));
  }
  return MakeLoadedSuite(options, *std::move(questions), AnswerParser::kStrict, std::string(text));
}

}  // namespace tandem::eval
