// Gives PCRE2 a text it can classify: see unicode_newcomers.h for why.
#pragma once

#include <string>
#include <string_view>

namespace tandem::text {

// `text` must be well-formed UTF-8. Returns `text` itself when it holds no newcomer, else a copy
// kept in `storage`, equal in length, with the newcomers replaced.
std::string_view ShadowText(std::string_view text, std::string* storage);

}  // namespace tandem::text
