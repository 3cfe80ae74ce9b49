// The MMLU suite: the official test files in the order of the published thousand-question
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

// What a directory has to hold, so that the shuffle means the same questions. Tests ask for less.
struct MmluExpectation {
  int subjects = kMmluSubjects;
  int rows = kMmluTestRows;
};

// Every question in file order: subjects alphabetically, ids such as "anatomy/test/12" with the row
// counted from 0. `directory` holds *_test.csv, or a folder `test` that does; rows are question,
// four choices, letter, without a header. `data_text` receives what the digest covers: a line
// "<file name>  <sha256>" per file, in the same order.
absl::StatusOr<std::vector<Question>> ReadMmluTest(const std::string& directory,
                                                   const MmluExpectation& expectation,
                                                   std::string* data_text);

// The first `limit` questions after Python's random.seed(42) and random.shuffle.
absl::StatusOr<std::unique_ptr<Suite>> LoadMmlu(const std::string& directory, int limit,
                                                const MmluExpectation& expectation = {});

}  // namespace tandem::eval
