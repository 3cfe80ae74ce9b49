#include "eval_client/suites/python_text.h"

#include <cstdint>
#include <cstdlib>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "lib/base/check.h"
#include "lib/base/text.h"

namespace tandem::eval {
namespace {

struct Character {
  uint32_t code = 0;  // a byte that is no UTF-8 stands for itself
  size_t bytes = 1;
};

Character FirstCharacter(std::string_view text) {
  const auto lead = static_cast<uint8_t>(text[0]);
  const size_t bytes = lead < 0x80 ? 1 : lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
  if (bytes == 1 || bytes > text.size()) return {lead, 1};
  uint32_t code = lead & (0xFFu >> (bytes + 1));
  for (size_t i = 1; i < bytes; ++i) code = code << 6 | (static_cast<uint8_t>(text[i]) & 0x3Fu);
  return {code, bytes};
}

// The start of the last character.
size_t LastCharacterAt(std::string_view text) {
  size_t at = text.size() - 1;
  while (at > 0 && (static_cast<uint8_t>(text[at]) & 0xC0u) == 0x80u) --at;
  return at;
}

// str.isspace() of one character: CPython's table of Unicode 14.
bool IsSpace(uint32_t code) {
  return (code >= 0x09 && code <= 0x0D) || (code >= 0x1C && code <= 0x20) || code == 0x85 ||
         code == 0xA0 || code == 0x1680 || (code >= 0x2000 && code <= 0x200A) || code == 0x2028 ||
         code == 0x2029 || code == 0x202F || code == 0x205F || code == 0x3000;
}

bool IsLineEnd(uint32_t code) {
  return (code >= 0x0A && code <= 0x0D) || (code >= 0x1C && code <= 0x1E) || code == 0x85 ||
         code == 0x2028 || code == 0x2029;
}

// Underscores stand between two digits only. Nothing when they do not.
std::optional<std::string> WithoutUnderscores(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '_') {
      out += text[i];
      continue;
    }
    const bool inside = i > 0 && i + 1 < text.size() && absl::ascii_isdigit(text[i - 1]) &&
                        absl::ascii_isdigit(text[i + 1]);
    if (!inside) return std::nullopt;
  }
  return out;
}

}  // namespace

std::string_view PythonStrip(std::string_view text) {
  while (!text.empty()) {
    const Character first = FirstCharacter(text);
    if (!IsSpace(first.code)) break;
    text.remove_prefix(first.bytes);
  }
  while (!text.empty()) {
    const size_t last = LastCharacterAt(text);
    if (!IsSpace(FirstCharacter(text.substr(last)).code)) break;
    text = text.substr(0, last);
  }
  return text;
}

std::vector<std::string_view> PythonSplitLines(std::string_view text) {
  std::vector<std::string_view> lines;
  size_t begin = 0;
  for (size_t at = 0; at < text.size();) {
    const Character character = FirstCharacter(text.substr(at));
    const size_t next = at + character.bytes;
    if (!IsLineEnd(character.code)) {
      at = next;
      continue;
    }
    lines.push_back(text.substr(begin, at - begin));
    const bool pair = character.code == '\r' && next < text.size() && text[next] == '\n';
    at = begin = next + (pair ? 1 : 0);
  }
  if (begin < text.size()) lines.push_back(text.substr(begin));
  return lines;
}

std::string PythonReplace(std::string_view text, std::string_view from, std::string_view to) {
  TANDEM_CHECK(!from.empty());
  std::string out;
  while (true) {
    const size_t at = text.find(from);
    out += text.substr(0, at);
    if (at == std::string_view::npos) return out;
    out += to;
    text.remove_prefix(at + from.size());
  }
}

std::optional<double> PythonFloat(std::string_view text) {
  const std::optional<std::string> digits = WithoutUnderscores(PythonStrip(text));
  if (!digits || digits->empty()) return std::nullopt;
  const std::string lower = absl::AsciiStrToLower(*digits);
  // strtod also reads hexadecimal and nan(...), and skips leading space; float() does none of it.
  const std::string unsigned_part =
      lower.substr(lower[0] == '+' || lower[0] == '-' ? 1 : 0, std::string::npos);
  const bool named =
      unsigned_part == "inf" || unsigned_part == "infinity" || unsigned_part == "nan";
  if (!named && lower.find_first_not_of("0123456789+-.e") != std::string::npos) {
    return std::nullopt;
  }
  char* end = nullptr;
  const double value = std::strtod(lower.c_str(), &end);
  if (end != lower.c_str() + lower.size()) return std::nullopt;
  return value;
}

}  // namespace tandem::eval
