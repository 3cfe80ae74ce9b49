// The third published way to read a letter: the rules of mmlu_test_multi.py (kvcache-ai/
// ktransformers, archive/ktransformers/tests), which look for a sentence, then for bold or quoted
// letters, then for a line that starts with one.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tandem::eval {

// One of the first `letters` letters (1 to 26, CHECKed), upper case, or nothing. Thread-safe.
std::optional<std::string> LetterByPatterns(std::string_view text, int letters);

}  // namespace tandem::eval
