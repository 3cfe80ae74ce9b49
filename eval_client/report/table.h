// The result as people read it, and as other programs do.
#pragma once

#include <string>
#include <vector>

#include "eval_client/report/journal.h"
#include "eval_client/report/manifest.h"

namespace tandem::eval {

// Head (suite, model, sampling), one row per subject, the total under each parser, speed, and a
// warning for every kind of trouble there was. `records` must not repeat an id. Ends in a line end.
std::string RenderTable(const Manifest& manifest, const std::vector<Record>& records);

// The same as one JSON object on several lines.
std::string RenderJson(const Manifest& manifest, const std::vector<Record>& records);

// Two runs over the same questions: both scores, how many questions only one of them got right, and
// the exact McNemar p. FAILED_PRECONDITION when they asked different questions; questions that
// either failed to get answered are left out and counted.
absl::StatusOr<std::string> RenderComparison(const Manifest& manifest,
                                             const std::vector<Record>& records,
                                             const Manifest& baseline,
                                             const std::vector<Record>& baseline_records);

// The score --fail-under compares with: percent correct of the answered, by the suite's own parser.
double HeadlinePercent(const Manifest& manifest, const std::vector<Record>& records);

}  // namespace tandem::eval
