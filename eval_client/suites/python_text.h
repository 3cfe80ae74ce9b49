// Python's string methods where a published script's result depends on them: which characters count
// as space or line end, and which texts are numbers. All take UTF-8.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::eval {

// str.strip().
std::string_view PythonStrip(std::string_view text);

// str.splitlines().
std::vector<std::string_view> PythonSplitLines(std::string_view text);

// str.replace(from, to); `from` must not be empty (CHECKed).
std::string PythonReplace(std::string_view text, std::string_view from, std::string_view to);

// float(text), for ASCII digits; nothing where Python raises ValueError.
std::optional<double> PythonFloat(std::string_view text);

}  // namespace tandem::eval
