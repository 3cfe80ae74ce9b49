#include "eval_client/suites/humaneval.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "eval_client/suites/loaded_suite.h"
#include "eval_client/suites/python_text.h"
#include "eval_client/suites/rows.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {
namespace {

constexpr float kTemperature = 0.6f;
constexpr uint32_t kTokensMax = 3000;

// prompts.py, instruct_prompt (kvcache-ai/ktransformers 95009ea6,
// archive/ktransformers/tests/humaneval).
std::string InstructPrompt(const std::string& prompt) {
  return absl::StrCat(
      "Below is an instruction that describes a task. Write a response that appropriately "
      "completes the request.\n\n### Instruction:\nComplete the following Python code without any "
      "tests or explanation\n",
      prompt, "\n\n### Response:");
}

absl::StatusOr<Question> MakeQuestion(const nlohmann::json& row) {
  Question question;
  TANDEM_ASSIGN_OR_RETURN(question.id, StringOf(row, "task_id"));
  TANDEM_ASSIGN_OR_RETURN(question.code.code_before, StringOf(row, "prompt"));
  TANDEM_ASSIGN_OR_RETURN(question.code.test, StringOf(row, "test"));
  TANDEM_ASSIGN_OR_RETURN(question.code.entry_point, StringOf(row, "entry_point"));
  question.subject = "humaneval";
  question.prompt = InstructPrompt(question.code.code_before);
  question.kind = AnswerKind::kCode;
  question.letters = 0;
  question.max_tokens = kTokensMax;
  question.temperature = kTemperature;
  return question;
}

void AppendSamples(const Question& question, int samples, std::vector<Question>* questions) {
  for (int i = 0; i < samples; ++i) {
    questions->push_back(question);
    if (samples > 1) absl::StrAppend(&questions->back().id, "#", i);
  }
}

std::string Before(const std::string& text, const std::string& mark) {
  return text.substr(0, text.find(mark));
}

absl::StatusOr<DataSet> ReadTasks(const std::string& folder) {
  auto files = FindFiles(folder, "HumanEval");
  if (!files.ok()) files = FindFiles(folder, "test");
  if (!files.ok()) {
    return absl::NotFoundError(absl::StrFormat(
        "%s: expected HumanEval.jsonl.gz, HumanEval.jsonl or test-*.parquet, found none", folder));
  }
  return ReadFiles(*files);
}

}  // namespace

std::string HumanEvalCode(const std::string& answer) {
  std::string code = PythonReplace(answer, "\t", "    ");
  code.erase(0, std::min(code.find_first_not_of('\n'), code.size()));
  code = PythonReplace(PythonReplace(code, "```python\n", ""), "```", "");
  return Before(Before(code, "if __name__ == \"__main__\":"), "# Example usage");
}

std::string HumanEvalProgram(const CodeCheck& check, const std::string& answer) {
  return absl::StrCat(check.code_before, HumanEvalCode(answer), "\n", check.test, "\ncheck(",
                      check.entry_point, ")");
}

absl::StatusOr<std::unique_ptr<Suite>> LoadHumanEval(const SuiteOptions& options) {
  TANDEM_RETURN_IF_ERROR(CheckOptions(options, {"seed"}, 0, /*has_samples=*/true).status());
  const std::string folder = DataFolder(options.data, "humaneval");
  TANDEM_ASSIGN_OR_RETURN(const DataSet set, ReadTasks(folder));
  std::vector<Question> questions;
  for (size_t i = 0; i < set.rows.size(); ++i) {
    auto question = MakeQuestion(set.rows[i]);
    if (!question.ok()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s row %d: %s", folder, i, std::string(question.status().message())));
    }
    AppendSamples(*question, options.samples, &questions);
  }
  return MakeLoadedSuite(options, std::move(questions), AnswerParser::kRun, set.files_text);
}

}  // namespace tandem::eval
