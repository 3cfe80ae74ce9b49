// Question: one thing to ask and how to tell whether the answer is right; plain data, so that
// suites, client, journal and judge share it without sharing code.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace tandem::eval {

enum class AnswerKind {
  kLetter,  // one of the first `letters` letters of the alphabet
  kNumber,  // a decimal number
  kCode,    // a Python program; running it tells
};

enum class PromptForm {
  kChat,  // the prompt is the one user message of a chat
  kText,  // the prompt is text to be continued, without a chat template
};

// What a kCode answer is run with. The program is code_before + answer + test + a call of `check`
// with the function named `entry_point`.
struct CodeCheck {
  std::string code_before;
  std::string test;  // defines check(candidate), which raises when the candidate is wrong
  std::string entry_point;
};

struct Question {
  std::string id;       // unique within the suite, stable between runs
  std::string subject;  // the row of the result table it counts in
  std::string prompt;   // all of it, UTF-8
  std::string gold;     // the right letter or number; empty for kCode
  AnswerKind kind = AnswerKind::kLetter;
  int letters = 4;  // lettered choices shown; 0 when it is not a choice
  PromptForm form = PromptForm::kChat;
  std::vector<std::string> stop = {};     // strings that end the answer and are left out of it
  uint32_t max_tokens = 0;                // most tokens of an answer; 0: as the run says
  std::optional<float> temperature = {};  // unset: as the run says
  CodeCheck code = {};                    // kCode only
};

// "letter", "number", "code".
std::string KindName(AnswerKind kind);
std::optional<AnswerKind> KindNamed(const std::string& name);

}  // namespace tandem::eval
