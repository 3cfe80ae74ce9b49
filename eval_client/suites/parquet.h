// Parquet, the form in which Hugging Face publishes data sets, by way of Python: Debian has no
// library for it, and a reader of our own would be larger than the rest of this folder.
#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace tandem::eval {

// Used when the system's Python has no pyarrow: a virtual environment of our own with this version.
inline constexpr char kPyarrow[] = "pyarrow==21.0.0";

// The rows of the file as JSON Lines. Converts with the python3 in PATH if it has pyarrow, else
// with one in $TANDEM_VENV_DIR/parquet (default: tandem/parquet under $XDG_CACHE_HOME or ~/.cache),
// which is made at the first use and needs the network then. FAILED_PRECONDITION, in one sentence,
// says what was missing and how to convert the file by hand.
absl::StatusOr<std::string> ParquetToJsonLines(const std::string& path);

// The interpreter it converts with, made as said above when there is none.
absl::StatusOr<std::string> PythonWithPyarrow();

}  // namespace tandem::eval
