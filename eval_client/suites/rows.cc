#include "eval_client/suites/rows.h"

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "eval_client/suites/digest.h"
#include "eval_client/suites/gzip.h"
#include "eval_client/suites/parquet.h"
#include "lib/base/mapped_file.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

std::string_view TextOf(const base::MappedFile& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

absl::Status AppendLines(const std::string& path, std::string_view text, std::vector<Json>* rows) {
  for (int number = 1; !text.empty(); ++number) {
    const size_t end = std::min(text.find('\n'), text.size());
    const std::string_view line = text.substr(0, end);
    text.remove_prefix(std::min(end + 1, text.size()));
    if (line.find_first_not_of(" \t\r") == std::string_view::npos) continue;
    Json row = Json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (!row.is_object()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("%s line %d: expected a JSON object", path, number));
    }
    rows->push_back(std::move(row));
  }
  return absl::OkStatus();
}

absl::Status AppendFile(const std::string& path, DataSet* set) {
  TANDEM_ASSIGN_OR_RETURN(const base::MappedFile file, base::MappedFile::Open(path));
  absl::StrAppend(&set->files_text, fs::path(path).filename().string(), "  ",
                  Sha256Hex(TextOf(file)), "\n");
  if (absl::EndsWith(path, ".parquet")) {
    TANDEM_ASSIGN_OR_RETURN(const std::string lines, ParquetToJsonLines(path));
    return AppendLines(path, lines, &set->rows);
  }
  if (absl::EndsWith(path, ".gz")) {
    auto lines = Gunzip(TextOf(file));
    if (!lines.ok()) {
      return absl::InvalidArgumentError(absl::StrCat(path, ": ", lines.status().message()));
    }
    return AppendLines(path, *lines, &set->rows);
  }
  return AppendLines(path, TextOf(file), &set->rows);
}

// <part>.parquet or the shards <part>-00000-of-00002.parquet ...
std::vector<std::string> ParquetFiles(const fs::path& folder, const std::string& part) {
  std::vector<std::string> files;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    const bool shard = name.starts_with(part + "-") && name.ends_with(".parquet");
    if (shard || name == part + ".parquet") files.push_back(entry.path().string());
  }
  std::sort(files.begin(), files.end());
  return files;
}

}  // namespace

std::string DataFolder(const std::string& data, const std::string& suite) {
  const fs::path inside = fs::path(data) / suite;
  std::error_code error;
  return fs::is_directory(inside, error) ? inside.string() : data;
}

absl::StatusOr<std::vector<std::string>> FindFiles(const std::string& path,
                                                   const std::string& part) {
  std::error_code error;
  if (fs::is_regular_file(path, error)) return std::vector<std::string>{path};
  for (const char* inside : {"", "data", "main", "all", "openai_humaneval"}) {
    const fs::path folder = fs::path(path) / inside;
    for (const char* ending : {".jsonl", ".jsonl.gz"}) {
      const fs::path file = folder / (part + ending);
      if (fs::is_regular_file(file, error)) return std::vector<std::string>{file.string()};
    }
    std::vector<std::string> files = ParquetFiles(folder, part);
    if (!files.empty()) return files;
  }
  return absl::NotFoundError(absl::StrFormat(
      "%s: expected %s.jsonl, %s.jsonl.gz or %s-*.parquet, found none", path, part, part, part));
}

absl::StatusOr<DataSet> ReadFiles(const std::vector<std::string>& files) {
  DataSet set;
  for (const std::string& file : files) TANDEM_RETURN_IF_ERROR(AppendFile(file, &set));
  return set;
}

absl::StatusOr<DataSet> ReadPart(const std::string& path, const std::string& part) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> files, FindFiles(path, part));
  return ReadFiles(files);
}

absl::StatusOr<std::string> StringOf(const Json& row, const char* key) {
  const auto value = row.find(key);
  if (value == row.end() || !value->is_string()) {
    return absl::InvalidArgumentError(absl::StrFormat("expected a string \"%s\"", key));
  }
  return value->get<std::string>();
}

absl::StatusOr<std::vector<std::string>> StringsOf(const Json& row, const char* key,
                                                   size_t count_min, size_t count_max) {
  const auto value = row.find(key);
  const bool good =
      value != row.end() && value->is_array() && value->size() >= count_min &&
      value->size() <= count_max &&
      std::all_of(value->begin(), value->end(), [](const Json& item) { return item.is_string(); });
  if (!good) {
    return absl::InvalidArgumentError(
        absl::StrFormat("expected \"%s\" with %d to %d strings", key, count_min, count_max));
  }
  return value->get<std::vector<std::string>>();
}

}  // namespace tandem::eval
