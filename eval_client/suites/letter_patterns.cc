#include "eval_client/suites/letter_patterns.h"

#include <array>
#include <memory>
#include <vector>

#include "absl/base/call_once.h"
#include "absl/strings/ascii.h"
#include "eval_client/suites/pattern.h"
#include "eval_client/suites/python_text.h"
#include "lib/base/check.h"

namespace tandem::eval {
namespace {

constexpr int kLettersMax = 26;
constexpr size_t kLastLines = 5;

// Where the script's patterns say [A-D], {letter} stands here, and {space} for its \s.
constexpr const char* kSentences[] = {
    R"(Answer:{space}*({letter})\b)",
    R"(Correct answer:{space}*({letter})\b)",
    R"(The correct answer is{space}*\*?\*?{space}*({letter})\b)",
    R"(Answer is{space}*({letter})\b)",
    R"(Therefore,{space}*answer is{space}*({letter})\b)",
    R"(Therefore,{space}*the answer should be{space}*(?:Option{space}*)?({letter})\b)",
    R"(The answer should be{space}*(?:Option{space}*)?({letter})\b)",
    R"(Option{space}+({letter}){space}+is correct)",
};
constexpr char kBold[] = R"(\*\*{space}*({letter})(?:\.|{space})?)";
constexpr char kQuoted[] = R"(['"]({letter})['"])";
constexpr char kLineStart[] = R"(^({letter})(?:\.|{space}|$))";

std::string Filled(const char* pattern, int letters) {
  const std::string range = {'[', 'A', '-', static_cast<char>('A' + letters - 1), ']'};
  return PythonReplace(PythonReplace(pattern, "{letter}", range), "{space}", R"([\s\x1c-\x1f])");
}

struct Rules {
  explicit Rules(int letters)
      : bold(Filled(kBold, letters)),
        quoted(Filled(kQuoted, letters)),
        line_start(Filled(kLineStart, letters)) {
    for (const char* sentence : kSentences) {
      sentences.emplace_back(Filled(sentence, letters), /*ignore_case=*/true);
    }
  }

  std::vector<Pattern> sentences;
  Pattern bold, quoted, line_start;
};

const Rules& RulesFor(int letters) {
  TANDEM_CHECK(letters >= 1 && letters <= kLettersMax);
  static std::array<absl::once_flag, kLettersMax + 1> once;
  static std::array<std::unique_ptr<Rules>, kLettersMax + 1> rules;
  absl::call_once(once[letters], [&] { rules[letters] = std::make_unique<Rules>(letters); });
  return *rules[letters];
}

std::optional<std::string> LetterOfLastLines(std::string_view text, const Pattern& line_start) {
  const std::vector<std::string_view> lines = PythonSplitLines(text);
  for (size_t i = 0; i < std::min(kLastLines, lines.size()); ++i) {
    auto letter = line_start.Search(PythonStrip(lines[lines.size() - 1 - i]));
    if (letter) return letter;
  }
  return std::nullopt;
}

}  // namespace

std::optional<std::string> LetterByPatterns(std::string_view text, int letters) {
  const Rules& rules = RulesFor(letters);
  text = PythonStrip(text);
  for (const Pattern& sentence : rules.sentences) {
    if (const auto letter = sentence.Search(text)) return absl::AsciiStrToUpper(*letter);
  }
  for (const Pattern* pattern : {&rules.bold, &rules.quoted}) {
    const std::vector<std::string> all = pattern->FindAll(text);
    if (!all.empty()) return all.back();
  }
  return LetterOfLastLines(text, rules.line_start);
}

}  // namespace tandem::eval
