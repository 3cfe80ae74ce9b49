// Turns the regular expressions of tokenizer files into PCRE2 syntax with the same matches. The
// files are written for Oniguruma in Ruby syntax (tokenizer.json) or for Rust's regex engines
// (tiktoken). Differences that matter:
//   \s      PCRE2 with UCP also takes U+180E: written out as the 25 White_Space characters.
//   \p{Han} PCRE2 >= 10.40 reads it as Script_Extensions: written \p{sc:Han}.
//   [A&&[^B]] set intersection, unknown to PCRE2 10.42: A must be a union of general categories;
//   the result is the
//           negation of (every other category, and B).
//   $ ^     Ruby's are line anchors, Rust's are text anchors.
// Everything not known to mean the same is refused by name.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tandem::text {

enum class RegexDialect { kOniguruma, kRust };

absl::StatusOr<std::string> ToPcre2(std::string_view pattern, RegexDialect dialect);

}  // namespace tandem::text
