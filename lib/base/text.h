// Bridges between std::string_view and Debian's absl::string_view, which are different types, and
// the UTF-8 and number helpers that several folders need.
#pragma once

#include <string>
#include <string_view>

#include "absl/strings/string_view.h"

namespace tandem::base {

inline absl::string_view ToAbsl(std::string_view s) { return {s.data(), s.size()}; }
inline std::string_view ToStd(absl::string_view s) { return {s.data(), s.size()}; }

// True when `bytes` is well-formed UTF-8 (no overlong forms, no surrogates, at most U+10FFFF).
bool IsValidUtf8(std::string_view bytes);

// "1.5 GiB", "37 MiB", "812 B": for people, never parsed back.
std::string HumanBytes(uint64_t bytes);

}  // namespace tandem::base
