// MMLU's rows, from the official CSV files or from the Parquet files of cais/mmlu.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::eval {

struct MmluRow {
  std::string id;       // "anatomy/test/12": subject, part, row of the subject counted from 0
  std::string subject;  // "high_school_biology"
  std::string question;
  std::vector<std::string> choices;  // 4
  std::string letter;                // "A" to "D"
};

struct MmluPart {
  std::vector<MmluRow> rows;  // CSV: subjects alphabetically; otherwise in file order
  int subjects = 0;
  std::string files_text;  // "<file name>  <sha256>" per file, each with a line end
};

// `part` is "test" or "dev". `directory` holds *_<part>.csv (rows: question, four choices, letter;
// no header), a folder `part` that does, or JSON Lines or Parquet as rows.h finds them with
// question, subject, choices and answer 0 to 3. INVALID_ARGUMENT names file and row.
absl::StatusOr<MmluPart> ReadMmluPart(const std::string& directory, const std::string& part);

}  // namespace tandem::eval
