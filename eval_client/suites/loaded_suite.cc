#include "eval_client/suites/loaded_suite.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "eval_client/suites/digest.h"

namespace tandem::eval {

std::unique_ptr<Suite> MakeLoadedSuite(const SuiteOptions& options, std::vector<Question> questions,
                                       AnswerParser headline, const std::string& files_text) {
  // Samples of one question follow one another, and the limit counts questions.
  const size_t limit = static_cast<size_t>(std::max(options.limit, 0)) *
                       static_cast<size_t>(std::max(options.samples, 1));
  if (limit > 0 && limit < questions.size()) questions.resize(limit);
  for (Question& question : questions) {
    if (options.max_tokens > 0 && question.max_tokens > 0) question.max_tokens = options.max_tokens;
    if (options.temperature && question.temperature) question.temperature = options.temperature;
  }
  return std::make_unique<LoadedSuite>(options.name, std::move(questions), headline,
                                       Sha256Hex(files_text));
}

absl::StatusOr<std::string> CheckOptions(const SuiteOptions& options,
                                         const std::vector<std::string>& variants, int shots_max,
                                         bool has_samples) {
  if (options.shots > shots_max) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "suite %s: expected at most %d shots, found %d", options.name, shots_max, options.shots));
  }
  if (options.samples < 1 || (options.samples > 1 && !has_samples)) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "suite %s: expected %s, found %d samples", options.name,
        has_samples ? "at least 1 sample per question" : "1 sample per question", options.samples));
  }
  if (options.variant.empty()) return variants.front();
  if (std::find(variants.begin(), variants.end(), options.variant) != variants.end()) {
    return options.variant;
  }
  return absl::InvalidArgumentError(absl::StrCat("suite ", options.name, ": expected the variant ",
                                                 absl::StrJoin(variants, " or "), ", found '",
                                                 options.variant, "'"));
}

}  // namespace tandem::eval
