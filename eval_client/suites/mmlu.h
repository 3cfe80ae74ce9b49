// The MMLU suite: the official test questions in the order of the published thousand-question
// benchmark.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "eval_client/suites/suite.h"

namespace tandem::eval {

inline constexpr int kMmluQuestionsDefault = 1000;  // what the published table was measured with
inline constexpr int kMmluSubjects = 57;
inline constexpr int kMmluTestRows = 14042;
inline constexpr int kMmluShotsMax = 5;  // rows per subject of the official dev files
inline constexpr uint64_t kShuffleSeed = 42;

// What a directory has to hold, so that the shuffle means the same questions. Tests ask for less.
struct MmluExpectation {
  int subjects = kMmluSubjects;
  int rows = kMmluTestRows;
};

// Every question in file order, see mmlu_rows.h. `data_text` receives what the digest covers.
absl::StatusOr<std::vector<Question>> ReadMmluTest(const std::string& directory,
                                                   const MmluExpectation& expectation,
                                                   std::string* data_text);

// The first options.limit (0: 1000) questions after Python's random.seed(42) and random.shuffle.
// With shots, the form of Hendrycks' own script instead (evaluate.py of hendrycks/test): a sentence
// with the subject, so many solved questions of the dev files, and the question, as text to be
// continued with a letter.
absl::StatusOr<std::unique_ptr<Suite>> LoadMmlu(const SuiteOptions& options,
                                                const MmluExpectation& expectation = {});

}  // namespace tandem::eval
