#include "eval_client/suites/answer_parser.h"

#include "eval_client/suites/letter_patterns.h"
#include "eval_client/suites/number_answer.h"
#include "eval_client/suites/python_text.h"

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
    case AnswerParser::kPatterns:
      return "patterns";
    case AnswerParser::kStrict:
      return "strict";
    case AnswerParser::kLogprob:
      return "logprob";
    case AnswerParser::kAnswerPhrase:
      return "answer_phrase";
    case AnswerParser::kHashes:
      return "hashes";
    case AnswerParser::kLastNumber:
      return "last_number";
    case AnswerParser::kRun:
      return "run";
  }
  return "unknown";
}

std::optional<AnswerParser> ParserNamed(const std::string& name) {
  if (name == ParserName(AnswerParser::kLogprob)) return AnswerParser::kLogprob;
  for (AnswerKind kind : {AnswerKind::kLetter, AnswerKind::kNumber, AnswerKind::kCode}) {
    for (AnswerParser parser : ParsersFor(kind)) {
      if (ParserName(parser) == name) return parser;
    }
  }
  return std::nullopt;
}

const std::vector<AnswerParser>& ParsersFor(AnswerKind kind) {
  static const std::vector<AnswerParser> letter = {AnswerParser::kLastChar,
                                                   AnswerParser::kFirstChar,
                                                   AnswerParser::kPatterns, AnswerParser::kStrict};
  static const std::vector<AnswerParser> number = {
      AnswerParser::kAnswerPhrase, AnswerParser::kHashes, AnswerParser::kLastNumber};
  static const std::vector<AnswerParser> code = {AnswerParser::kRun};
  switch (kind) {
    case AnswerKind::kLetter:
      return letter;
    case AnswerKind::kNumber:
      return number;
    case AnswerKind::kCode:
      return code;
  }
  return letter;
}

Parsed ParseAnswer(AnswerParser parser, std::string_view text, int letters) {
  // Once both ends are stripped, the first line starts with the first character and the last one
  // ends with the last. A byte stands for its character: the bytes of other characters are never
  // letters in UTF-8.
  const std::string_view bare = PythonStrip(text);
  switch (parser) {
    case AnswerParser::kFirstChar:
      return bare.empty() ? std::nullopt : LetterOrNothing(bare.front(), letters);
    case AnswerParser::kLastChar:
      return bare.empty() ? std::nullopt : LetterOrNothing(bare.back(), letters);
    case AnswerParser::kPatterns:
      return letters > 0 ? LetterByPatterns(bare, letters) : std::nullopt;
    case AnswerParser::kStrict:
      return OnlyLetter(bare, letters);
    case AnswerParser::kAnswerPhrase:
      return NumberAfterPhrase(bare);
    case AnswerParser::kHashes:
      return NumberAfterHashes(text);
    case AnswerParser::kLastNumber:
      return LastNumber(text);
    case AnswerParser::kLogprob:
    case AnswerParser::kRun:
      return std::nullopt;
  }
  return std::nullopt;
}

bool IsRight(AnswerParser parser, const std::string& parsed, const std::string& gold) {
  switch (parser) {
    case AnswerParser::kAnswerPhrase:
      return SameNumberWithTolerance(parsed, gold);
    case AnswerParser::kHashes:
    case AnswerParser::kLastNumber:
      return SameNumberText(parsed, gold);
    default:
      return parsed == gold;
  }
}

}  // namespace tandem::eval
