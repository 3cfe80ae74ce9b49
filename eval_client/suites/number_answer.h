// The published ways to read a number out of an answer, and to compare it with the right one.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace tandem::eval {

// The rule of KTransformers' SOSP'25 artifact (branch sosp25-ae, lm_eval/tasks/gsm8k.py): up to the
// next question, what follows the last "he answer is", else the last number.
std::optional<std::string> NumberAfterPhrase(std::string_view text);
// Its comparison: relative tolerance 1e-4, and a hundredth or a hundredfold is as good. Its further
// comparison of symbols never applies, because the rule above yields decimal numbers only.
bool SameNumberWithTolerance(std::string_view parsed, std::string_view gold);

// The two filters of lm-eval's task gsm8k (version 3): "#### " with a number, and the last number
// anywhere. Nothing where lm-eval says [invalid].
std::optional<std::string> NumberAfterHashes(std::string_view text);
std::optional<std::string> LastNumber(std::string_view text);
// Its exact match: the texts without commas, dollar signs and a final full stop.
bool SameNumberText(std::string_view parsed, std::string_view gold);

}  // namespace tandem::eval
