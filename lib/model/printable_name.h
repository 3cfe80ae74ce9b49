// Names read from weight files are untrusted bytes; error messages show them in a form safe for a
// terminal and a log line.
#pragma once

#include <string>
#include <string_view>

namespace tandem {

// `name` in single quotes, control and non-ASCII bytes as escapes, cut after 100 bytes (with
// "...").
std::string PrintableName(std::string_view name);

}  // namespace tandem
