// Reads RFC 4180 CSV. The official MMLU files need all of it: quoted commas, doubled quotes, line
// breaks inside fields, and both LF and CRLF line ends.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::eval {

using CsvRow = std::vector<std::string>;

// All rows of `text`; every byte of a field is kept as it is, a line break inside quotes too. A
// line end after the last row makes no further row; an empty line is a row of one empty field.
// INVALID_ARGUMENT names the line where a quote is not closed, stands inside an unquoted field, or
// is followed by anything but a comma or line end.
absl::StatusOr<std::vector<CsvRow>> ParseCsv(std::string_view text);

}  // namespace tandem::eval
