// From a model's words to an answer. The published scores were made with different rules, and no
// rule is innocent, so a report shows all of them side by side.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "eval_client/suites/question.h"

namespace tandem::eval {

enum class AnswerParser {
  // Letters.
  kFirstChar,  // first character of the first line: the benchmark script until 2025-03-04
  kLastChar,   // last character of the last line: the script since then
  kPatterns,   // sentences, bold and quoted letters: the script's threaded variant
  kStrict,     // one letter and nothing else; a closing quote is allowed, as the prompt leaves one
               // open
  kLogprob,    // no text: the letter with the highest log probability
  // Numbers.
  kAnswerPhrase,  // after "he answer is", else the last one: KTransformers' SOSP artifact
  kHashes,        // after "#### ": lm-eval's strict-match
  kLastNumber,    // the last one: lm-eval's flexible-extract
  // Programs.
  kRun,  // no text: what running it said
};

// "first_char", "last_char", "patterns", "strict", "logprob", "answer_phrase", "hashes",
// "last_number", "run".
std::string ParserName(AnswerParser parser);
std::optional<AnswerParser> ParserNamed(const std::string& name);

// Those that read answers of this kind. kLogprob is not among them: whether it applies depends on
// the records (see report/tally.h).
const std::vector<AnswerParser>& ParsersFor(AnswerKind kind);
inline const std::vector<AnswerParser>& AllParsers() { return ParsersFor(AnswerKind::kLetter); }

// What `text` (a whole answer, UTF-8) means under `parser`: one of the first `letters` letters of
// the alphabet (at most 26; 0 for an answer that is none) or a number as it was written. Nothing
// when it means nothing, or the parser does not read text. White space around the text is dropped
// first, as the published scripts do.
std::optional<std::string> ParseAnswer(AnswerParser parser, std::string_view text, int letters);

// Whether `parsed`, from ParseAnswer, is the right answer by the rule that belongs to `parser`.
bool IsRight(AnswerParser parser, const std::string& parsed, const std::string& gold);

}  // namespace tandem::eval
