#include "eval_client/suites/parquet.h"

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "eval_client/sandbox/child.h"
#include "lib/base/mapped_file.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kConvertDeadline = absl::Minutes(10);
constexpr absl::Duration kInstallDeadline = absl::Minutes(10);
constexpr size_t kMessageBytesMax = size_t{64} << 10;

constexpr char kConvert[] = R"python(
import json, sys
import pyarrow.parquet
with open(sys.argv[2], 'w', encoding='utf-8') as out:
    for batch in pyarrow.parquet.ParquetFile(sys.argv[1]).iter_batches():
        for row in batch.to_pylist():
            out.write(json.dumps(row, ensure_ascii=False) + '\n')
)python";

// Runs it and wants exit code 0.
absl::Status RunQuietly(std::vector<std::string> arguments, absl::Duration deadline) {
  TANDEM_ASSIGN_OR_RETURN(const ChildResult result,
                          RunChild({.arguments = std::move(arguments),
                                    .descriptors = {},
                                    .deadline = deadline,
                                    .output_bytes_max = kMessageBytesMax}));
  if (result.exit_code == 0 && !result.timed_out) return absl::OkStatus();
  const std::string text = result.timed_out ? "it took too long" : result.output;
  const size_t end = text.find_last_not_of(" \n");
  const size_t begin = end == std::string::npos ? 0 : text.find_last_of('\n', end) + 1;
  return absl::InternalError(text.substr(begin, end == std::string::npos ? 0 : end + 1 - begin));
}

fs::path EnvironmentFolder() {
  if (const char* folder = std::getenv("TANDEM_VENV_DIR")) return fs::path(folder) / "parquet";
  if (const char* cache = std::getenv("XDG_CACHE_HOME")) return fs::path(cache) / "tandem/parquet";
  const char* home = std::getenv("HOME");
  return fs::path(home ? home : "/tmp") / ".cache/tandem/parquet";
}

bool HasPyarrow(const std::string& python) {
  return RunQuietly({python, "-c", "import pyarrow.parquet"}, kConvertDeadline).ok();
}

}  // namespace

absl::StatusOr<std::string> PythonWithPyarrow() {
  if (HasPyarrow("python3")) return "python3";
  const fs::path folder = EnvironmentFolder();
  const std::string python = (folder / "bin/python").string();
  std::error_code error;
  if (fs::exists(python, error) && HasPyarrow(python)) return python;
  fs::create_directories(folder, error);
  TANDEM_RETURN_IF_ERROR(
      RunQuietly({"python3", "-m", "venv", "--clear", folder.string()}, kInstallDeadline));
  TANDEM_RETURN_IF_ERROR(RunQuietly(
      {python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", kPyarrow},
      kInstallDeadline));
  return python;
}

namespace {

absl::StatusOr<std::string> Convert(const std::string& python, const std::string& path) {
  const std::string out =
      (fs::temp_directory_path() / absl::StrCat("tandem-parquet-", getpid(), ".jsonl")).string();
  const absl::Status status = RunQuietly({python, "-c", kConvert, path, out}, kConvertDeadline);
  std::string lines;
  if (status.ok()) {
    TANDEM_ASSIGN_OR_RETURN(const base::MappedFile file, base::MappedFile::Open(out));
    lines.assign(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  }
  std::error_code error;
  fs::remove(out, error);
  if (!status.ok()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": expected a Parquet file, found: ", status.message()));
  }
  return lines;
}

}  // namespace

absl::StatusOr<std::string> ParquetToJsonLines(const std::string& path) {
  auto python = PythonWithPyarrow();
  if (!python.ok()) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "%s: expected a python3 with pyarrow, or one that can install it, found: %s (by hand: "
        "python3 -c 'import sys,pandas; pandas.read_parquet(sys.argv[1]).to_json(sys.argv[2],"
        "orient=\"records\",lines=True,force_ascii=False)' FILE.parquet FILE.jsonl)",
        path, std::string(python.status().message())));
  }
  return Convert(*python, path);
}

}  // namespace tandem::eval
