// Small files of text, whole: read in one go, and replaced in one step so that nobody ever sees
// half of one.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace tandem::base {

// All of the file; empty when it cannot be read, for readers to whom that is the same.
std::string ReadTextOrEmpty(const std::string& path);

// Writes `text` beside `path` and renames it over. Otherwise the system's reason, with the path;
// the old file is then as it was.
absl::Status ReplaceFile(const std::string& path, const std::string& text);

// The last line of the file that is not empty; empty when there is none. For a log's last words.
std::string LastLine(const std::string& path);

}  // namespace tandem::base
