// The one prompt of all multiple-choice suites: byte for byte the one the published benchmark
// sends, so that scores compare.
#pragma once

#include <string>
#include <vector>

namespace tandem::eval {

inline constexpr int kChoices = 4;      // of MMLU and the quiz
inline constexpr int kProChoices = 10;  // of MMLU-Pro, at most

// The user message for one question with lettered choices. The hint names the first
// `letters_named` letters whatever the number of choices (at most 26). It ends in `Answer: '` with
// a single quote that nothing closes: a slip in the published script, and part of what its scores
// were measured with.
std::string ChoicePrompt(const std::string& question, const std::vector<std::string>& choices,
                         int letters_named = kChoices);

}  // namespace tandem::eval
