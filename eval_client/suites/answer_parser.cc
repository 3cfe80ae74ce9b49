#include "eval_client/suites/answer_parser.h"

#include "absl/strings/ascii.h"
#include "lib/base/text.h"

namespace tandem::eval {
namespace {

std::optional<char> LetterOrNothing(char c) {
  if (c < 'A' || c > 'D') return std::nullopt;
  return c;
}

// A byte stands for its character here: the bytes of other characters are never 'A' to 'D' in
// UTF-8.
std::optional<char> FirstChar(std::string_view text) { return LetterOrNothing(text.front()); }
std::optional<char> LastChar(std::string_view text) { return LetterOrNothing(text.back()); }

std::optional<char> OnlyLetter(std::string_view text) {
  if (text.size() == 2 && text[1] == '\'') text.remove_suffix(1);
  return text.size() == 1 ? LetterOrNothing(text[0]) : std::nullopt;
}

}  // namespace

std::string ParserName(AnswerParser parser) {
  switch (parser) {
    case AnswerParser::kFirstChar:
      return "first_char";
    case AnswerParser::kLastChar:
      return "last_char";
    case AnswerParser::kStrict:
      return "strict";
  }
  return "unknown";
}

const std::vector<AnswerParser>& AllParsers() {
  static const std::vector<AnswerParser> all = {AnswerParser::kLastChar, AnswerParser::kFirstChar,
                                                AnswerParser::kStrict};
  return all;
}

std::optional<char> ParseAnswer(AnswerParser parser, std::string_view text) {
  // Once both ends are stripped, the first line starts with the first character and the last one
  // ends with the last.
  text = base::ToStd(absl::StripAsciiWhitespace(base::ToAbsl(text)));
  if (text.empty()) return std::nullopt;
  switch (parser) {
    case AnswerParser::kFirstChar:
      return FirstChar(text);
    case AnswerParser::kLastChar:
      return LastChar(text);
    case AnswerParser::kStrict:
      return OnlyLetter(text);
  }
  return std::nullopt;
}

}  // namespace tandem::eval
