#include "lib/model/text/utf8.h"

#include <algorithm>

namespace tandem::text {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD

struct LeadRule {
  uint8_t follow_count;
  uint8_t second_min, second_max;  // the later bytes are always 80..BF
};

// Unicode 15, table 3-7: the second byte carries every restriction (overlong, surrogate, above
// U+10FFFF).
LeadRule RuleOf(uint8_t lead) {
  if (lead >= 0xC2 && lead <= 0xDF) return {1, 0x80, 0xBF};
  if (lead == 0xE0) return {2, 0xA0, 0xBF};
  if (lead == 0xED) return {2, 0x80, 0x9F};
  if (lead >= 0xE1 && lead <= 0xEF) return {2, 0x80, 0xBF};
  if (lead == 0xF0) return {3, 0x90, 0xBF};
  if (lead >= 0xF1 && lead <= 0xF3) return {3, 0x80, 0xBF};
  if (lead == 0xF4) return {3, 0x80, 0x8F};
  return {0, 0, 0};
}

}  // namespace

Utf8Step ScanUtf8(std::string_view bytes) {
  const uint8_t lead = static_cast<uint8_t>(bytes[0]);
  if (lead < 0x80) return {Utf8Kind::kWhole, 1, lead};
  const LeadRule rule = RuleOf(lead);
  if (rule.follow_count == 0) return {Utf8Kind::kBroken, 1, 0};
  char32_t code_point = lead & (0x3F >> rule.follow_count);
  for (size_t i = 1; i <= rule.follow_count; ++i) {
    if (i == bytes.size()) return {Utf8Kind::kTruncated, i, 0};
    const uint8_t byte = static_cast<uint8_t>(bytes[i]);
    const uint8_t low = i == 1 ? rule.second_min : 0x80;
    const uint8_t high = i == 1 ? rule.second_max : 0xBF;
    if (byte < low || byte > high) return {Utf8Kind::kBroken, i, 0};
    code_point = (code_point << 6) | (byte & 0x3F);
  }
  return {Utf8Kind::kWhole, size_t{1} + rule.follow_count, code_point};
}

void AppendUtf8(char32_t c, std::string* out) {
  if (c < 0x80) {
    out->push_back(static_cast<char>(c));
  } else if (c < 0x800) {
    out->push_back(static_cast<char>(0xC0 | (c >> 6)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else if (c < 0x10000) {
    out->push_back(static_cast<char>(0xE0 | (c >> 12)));
    out->push_back(static_cast<char>(0x80 | ((c >> 6) & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  } else {
    out->push_back(static_cast<char>(0xF0 | (c >> 18)));
    out->push_back(static_cast<char>(0x80 | ((c >> 12) & 0x3F)));
    out->push_back(static_cast<char>(0x80 | ((c >> 6) & 0x3F)));
    out->push_back(static_cast<char>(0x80 | (c & 0x3F)));
  }
}

size_t AppendLossy(std::string_view bytes, bool final, std::string* out) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Utf8Step step = ScanUtf8(bytes.substr(at));
    if (step.kind == Utf8Kind::kTruncated && !final) break;
    if (step.kind == Utf8Kind::kWhole) {
      out->append(bytes.substr(at, step.byte_count));
    } else {
      out->append(kReplacement);
    }
    at += step.byte_count;
  }
  return at;
}

std::vector<char32_t> CodePoints(std::string_view text) {
  std::vector<char32_t> code_points;
  code_points.reserve(text.size());
  while (!text.empty()) {
    const Utf8Step step = ScanUtf8(text);
    code_points.push_back(step.kind == Utf8Kind::kWhole ? step.code_point : 0xFFFD);
    text.remove_prefix(step.byte_count);
  }
  return code_points;
}

size_t CountCodePoints(std::string_view text) {
  return static_cast<size_t>(std::count_if(
      text.begin(), text.end(), [](char c) { return (static_cast<uint8_t>(c) & 0xC0) != 0x80; }));
}

std::string EncodeUtf8(const std::vector<char32_t>& code_points, size_t begin, size_t end) {
  std::string out;
  for (size_t i = begin; i < end; ++i) AppendUtf8(code_points[i], &out);
  return out;
}

bool IsUnicodeSpace(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

}  // namespace tandem::text
