// From a model's words to a letter. The published scores were made with two different rules, and no
// rule is innocent, so a report shows all of them side by side.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "eval_client/suites/question.h"

namespace tandem::eval {

enum class AnswerParser {
  kFirstChar,  // first character of the first line: the benchmark script until 2025-03-04
  kLastChar,   // last character of the last line: the script since then
  kStrict,     // one letter and nothing else; a closing quote is allowed, as the prompt leaves one
               // open
};

// "first_char", "last_char", "strict".
std::string ParserName(AnswerParser parser);
std::optional<AnswerParser> ParserNamed(const std::string& name);
// All that read a letter, number or program.
const std::vector<AnswerParser>& ParsersFor(AnswerKind kind);
inline const std::vector<AnswerParser>& AllParsers() { return ParsersFor(AnswerKind::kLetter); }

// What `text` (a whole answer, UTF-8) means under `parser`: one of the first `letters` letters of
// the alphabet (at most 26), or nothing. White space around the text is dropped first, as the
// published script does.
std::optional<std::string> ParseAnswer(AnswerParser parser, std::string_view text, int letters);

}  // namespace tandem::eval
