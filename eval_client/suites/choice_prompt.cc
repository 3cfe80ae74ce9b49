#include "eval_client/suites/choice_prompt.h"

#include "absl/strings/str_cat.h"

namespace tandem::eval {
namespace {

std::string Letter(size_t index) { return std::string(1, static_cast<char>('A' + index)); }

}  // namespace

std::string ChoicePrompt(const std::string& question, const std::vector<std::string>& choices,
                         int letters_named) {
  std::string prompt = "There is a single choice question. Answer the question by replying A";
  for (int i = 1; i < letters_named; ++i) absl::StrAppend(&prompt, ", ", Letter(i));
  absl::StrAppend(&prompt,
                  ". No other answers are accepted. Just the letter.\nQuestion: ", question, "\n");
  for (size_t i = 0; i < choices.size(); ++i) {
    absl::StrAppend(&prompt, Letter(i), ". ", choices[i], "\n");
  }
  absl::StrAppend(&prompt, "Answer: '");
  return prompt;
}

}  // namespace tandem::eval
