#include "eval_client/suites/choice_prompt.h"

#include "absl/strings/str_cat.h"

namespace tandem::eval {

std::string ChoicePrompt(const std::string& question,
                         const std::array<std::string, kChoices>& choices) {
  return absl::StrCat(
      "There is a single choice question. Answer the question by replying A, B, C, D. No other "
      "answers are accepted. Just the letter.\nQuestion: ",
      question, "\nA. ", choices[0], "\nB. ", choices[1], "\nC. ", choices[2], "\nD. ", choices[3],
      "\nAnswer: '");
}

}  // namespace tandem::eval
