#include "eval_client/suites/number_answer.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/ascii.h"
#include "eval_client/suites/pattern.h"
#include "eval_client/suites/python_text.h"

namespace tandem::eval {
namespace {

constexpr double kRelativeTolerance = 1e-4;

std::string WithoutCommas(std::string_view text) { return PythonReplace(text, ",", ""); }

std::string LastDecimal(std::string_view text) {
  static const Pattern* const decimal = new Pattern(R"(-?\d*\.?\d+)");
  const std::vector<std::string> all = decimal->FindAll(WithoutCommas(text));
  return all.empty() ? "" : all.back();
}

bool IsClose(double a, double b) {
  if (a == b) return true;
  if (std::isinf(a) || std::isinf(b)) return false;
  return std::abs(a - b) <= kRelativeTolerance * std::max(std::abs(a), std::abs(b));
}

std::optional<std::string> NotEmpty(std::string text) {
  if (text.empty()) return std::nullopt;
  return text;
}

std::string Normalized(std::string_view text) {
  std::string plain = PythonReplace(WithoutCommas(text), "$", "");
  if (plain.ends_with('.')) plain.pop_back();
  return absl::AsciiStrToLower(plain);
}

}  // namespace

std::optional<std::string> NumberAfterPhrase(std::string_view text) {
  constexpr std::string_view kPhrase = "he answer is";
  text = PythonStrip(text);
  text = text.substr(0, text.find("\n\nQuestion:"));
  std::string number;
  const size_t phrase = text.rfind(kPhrase);
  if (phrase == std::string_view::npos) {
    number = LastDecimal(text);
  } else {
    const std::string_view rest = PythonStrip(text.substr(phrase + kPhrase.size()));
    number = PythonFloat(WithoutCommas(rest)) ? std::string(rest) : LastDecimal(rest);
  }
  number.resize(std::min(number.size(), number.find('\n')));
  if (number.ends_with('.')) number.pop_back();
  return NotEmpty(std::move(number));
}

bool SameNumberWithTolerance(std::string_view parsed, std::string_view gold) {
  const auto found = PythonFloat(WithoutCommas(parsed));
  const auto expected = PythonFloat(WithoutCommas(gold));
  // The script turns the word for infinity into a symbol before it compares.
  if (!found || !expected || !std::isfinite(*found)) return false;
  return IsClose(*found / 100, *expected) || IsClose(*found, *expected) ||
         IsClose(*found * 100, *expected);
}

std::optional<std::string> NumberAfterHashes(std::string_view text) {
  static const Pattern* const pattern = new Pattern(R"(#### (\-?[0-9\.\,]+))");
  const auto found = pattern->Search(text);
  return found ? NotEmpty(std::string(PythonStrip(*found))) : std::nullopt;
}

std::optional<std::string> LastNumber(std::string_view text) {
  static const Pattern* const pattern = new Pattern(R"((-?[$0-9.,]{2,})|(-?[0-9]+))");
  const std::vector<std::string> all = pattern->FindAll(text);
  if (all.empty()) return std::nullopt;
  return NotEmpty(std::string(PythonStrip(all.back())));
}

bool SameNumberText(std::string_view parsed, std::string_view gold) {
  return Normalized(parsed) == Normalized(gold);
}

}  // namespace tandem::eval
