// UTF-8 as the reference tokenizers see it: code points, and the replacement of ill-formed bytes
// that Rust's String::from_utf8_lossy does (each maximal well-formed prefix of a broken sequence
// becomes one U+FFFD; Unicode 15, section 3.9, "U+FFFD Substitution of Maximal Subparts"). Both the
// whole-text decoder and the streaming one use it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::text {

enum class Utf8Kind { kWhole, kBroken, kTruncated };

struct Utf8Step {
  Utf8Kind kind;      // kTruncated: well-formed so far, but the bytes end inside the sequence
  size_t byte_count;  // length of the code point, or of the maximal subpart to replace; at least 1
  char32_t code_point;  // only for kWhole
};

// Looks at the first sequence of `bytes`, which must not be empty.
Utf8Step ScanUtf8(std::string_view bytes);

void AppendUtf8(char32_t code_point, std::string* out);

// Appends `bytes` to `out`, broken sequences replaced, and returns how many bytes were used. A
// truncated sequence at the end is left unused, unless `final`: then it becomes one U+FFFD.
size_t AppendLossy(std::string_view bytes, bool final, std::string* out);

// Code points of well-formed UTF-8 (ill-formed bytes come out as U+FFFD).
std::vector<char32_t> CodePoints(std::string_view text);
size_t CountCodePoints(std::string_view text);
std::string EncodeUtf8(const std::vector<char32_t>& code_points, size_t begin, size_t end);

// White_Space of Unicode 16: what \s, str.strip() of plain text and Rust's char::is_whitespace
// agree on.
bool IsUnicodeSpace(char32_t code_point);

}  // namespace tandem::text
