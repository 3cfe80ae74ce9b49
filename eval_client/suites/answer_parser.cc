#include "eval_client/suites/answer_parser.h"

#include "absl/strings/ascii.h"
#include "lib/base/text.h"

namespace tandem::eval {
namespace {

using Parsed = std::optional<std::string>;

Parsed LetterOrNothing(char c, int letters) {
  if (c < 'A' || c >= 'A' + letters) return std::nullopt;
  return std::string(1, c);
}

Parsed OnlyLetter(std::string_view text, int letters) {
  if (text.size() == 2 && text[1] == '\'') text.remove_suffix(1);
  return text.size() == 1 ? LetterOrNothing(text[0], letters) : std::nullopt;
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

std::optional<AnswerParser> ParserNamed(const std::string& name) {
  for (AnswerKind kind : {AnswerKind::kLetter, AnswerKind::kNumber, AnswerKind::kCode}) {
    for (AnswerParser parser : ParsersFor(kind)) {
      if (ParserName(parser) == name) return parser;
    }
  }
  return std::nullopt;
}

const std::vector<AnswerParser>& ParsersFor(AnswerKind kind) {
  static const std::vector<AnswerParser> letter = {AnswerParser::kLastChar,
                                                   AnswerParser::kFirstChar, AnswerParser::kStrict};
  static const std::vector<AnswerParser> none;
  return kind == AnswerKind::kLetter ? letter : none;
}

Parsed ParseAnswer(AnswerParser parser, std::string_view text, int letters) {
  // Once both ends are stripped, the first line starts with the first character and the last one
  // ends with the last. A byte stands for its character: the bytes of other characters are never
  // letters in UTF-8.
  text = base::ToStd(absl::StripAsciiWhitespace(base::ToAbsl(text)));
  if (text.empty()) return std::nullopt;
  switch (parser) {
    case AnswerParser::kFirstChar:
      return LetterOrNothing(text.front(), letters);
    case AnswerParser::kLastChar:
      return LetterOrNothing(text.back(), letters);
    case AnswerParser::kStrict:
      return OnlyLetter(text, letters);
  }
  return std::nullopt;
}

}  // namespace tandem::eval
