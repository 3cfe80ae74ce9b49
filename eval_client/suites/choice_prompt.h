// The one prompt of all four-choice suites: byte for byte the one the published benchmark sends, so
// that scores compare.
#pragma once

#include <array>
#include <string>

namespace tandem::eval {

inline constexpr int kChoices = 4;

// The user message for one question. It ends in `Answer: '` with a single quote that nothing
// closes: a slip in the published script, and part of what its scores were measured with.
std::string ChoicePrompt(const std::string& question,
                         const std::array<std::string, kChoices>& choices);

}  // namespace tandem::eval
