// Reads a data set in the form its users have it: JSON Lines, the same compressed by gzip, or
// Parquet. Whatever the form, a row becomes a JSON object.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace tandem::eval {

struct DataSet {
  std::vector<nlohmann::json> rows;  // objects, in the order of the files
  // "<file name>  <sha256 of its bytes>" per file, each with a line end: what a digest covers.
  std::string files_text;
};

// Where the data of `suite` is: the folder of that name inside `data`, when there is one, or `data`
// itself, a folder or a file.
std::string DataFolder(const std::string& data, const std::string& suite);

// The files of one part of a data set: `path` itself when it is a file. In a folder, or in its
// folders `data`, `main`, `all` and `openai_humaneval`, where published data sets keep it:
// <part>.jsonl, <part>.jsonl.gz, or <part>.parquet, or <part>-*.parquet in order of name. NOT_FOUND
// names them.
absl::StatusOr<std::vector<std::string>> FindFiles(const std::string& path,
                                                   const std::string& part);

// All rows of the files. INVALID_ARGUMENT names file and line, FAILED_PRECONDITION says what
// reading Parquet needs.
absl::StatusOr<DataSet> ReadFiles(const std::vector<std::string>& files);

// ReadFiles of FindFiles.
absl::StatusOr<DataSet> ReadPart(const std::string& path, const std::string& part);

// The string behind `key`. INVALID_ARGUMENT names the key.
absl::StatusOr<std::string> StringOf(const nlohmann::json& row, const char* key);
// The same for an array of `count_min` to `count_max` strings.
absl::StatusOr<std::vector<std::string>> StringsOf(const nlohmann::json& row, const char* key,
                                                   size_t count_min, size_t count_max);

}  // namespace tandem::eval
