#include "lib/model/text/shadow_text.h"

#include <algorithm>

#include "lib/model/text/unicode_newcomers.h"
#include "lib/model/text/utf8.h"

namespace tandem::text {
namespace {

// No newcomer lies between these two rows of the table; CJK and Hangul text, which does, skips the
// search.
constexpr char32_t kQuietFirst = 0x31F0, kQuietLast = 0xA7CA;

// The stand-in for `c`, or `c`.
char32_t StandIn(char32_t c) {
  if (c < kNewcomers.front().first || (c >= kQuietFirst && c <= kQuietLast)) return c;
  const auto* row = std::lower_bound(kNewcomers.begin(), kNewcomers.end(), c,
                                     [](const NewcomerRange& r, char32_t x) { return r.last < x; });
  return row != kNewcomers.end() && row->first <= c ? row->stand_in : c;
}

}  // namespace

std::string_view ShadowText(std::string_view text, std::string* storage) {
  bool copied = false;
  for (size_t at = 0; at < text.size();) {
    if (static_cast<unsigned char>(text[at]) < 0x80) {
      ++at;
      continue;
    }
    const Utf8Step step = ScanUtf8(text.substr(at));
    const char32_t stand_in = StandIn(step.code_point);
    if (stand_in != step.code_point) {
      if (!copied) *storage = text;
      copied = true;
      std::string bytes;
      AppendUtf8(stand_in, &bytes);
      std::copy(bytes.begin(), bytes.end(), storage->begin() + static_cast<ptrdiff_t>(at));
    }
    at += step.byte_count;
  }
  return copied ? std::string_view(*storage) : text;
}

}  // namespace tandem::text
