#include "eval_client/run_folder.h"

#include <filesystem>
#include <utility>

#include "absl/strings/str_cat.h"
#include "eval_client/report/tally.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"

namespace tandem::eval {
namespace {

namespace fs = std::filesystem;

std::string JournalPath(const std::string& folder) { return folder + "/journal.jsonl"; }
std::string ManifestPath(const std::string& folder) { return folder + "/manifest.json"; }

absl::Status CreateFolder(const std::string& path) {
  std::error_code error;
  if (fs::exists(JournalPath(path), error)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "expected no earlier run in ", path, ", found one; add --resume or name another --out"));
  }
  fs::create_directories(path, error);
  if (error)
    return absl::UnavailableError(absl::StrCat("cannot create ", path, ": ", error.message()));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<RunFolder> RunFolder::Open(const std::string& path, bool resume, Manifest manifest) {
  JournalContents contents;
  if (resume) {
    TANDEM_ASSIGN_OR_RETURN(const Manifest earlier, ReadManifest(ManifestPath(path)));
    TANDEM_RETURN_IF_ERROR(CheckSameRun(earlier, manifest));
    TANDEM_ASSIGN_OR_RETURN(contents, ReadJournal(JournalPath(path)));
    manifest.sessions.insert(manifest.sessions.begin(), earlier.sessions.begin(),
                             earlier.sessions.end());
    if (contents.torn) base::LogWarning("journal_torn_line_dropped", {{"path", JournalPath(path)}});
  } else {
    TANDEM_RETURN_IF_ERROR(CreateFolder(path));
  }
  TANDEM_ASSIGN_OR_RETURN(JournalWriter journal,
                          JournalWriter::Open(JournalPath(path), contents.good_bytes));
  RunFolder folder(path, std::move(manifest), std::move(contents.records), std::move(journal));
  TANDEM_RETURN_IF_ERROR(folder.SaveManifest());
  return folder;
}

RunFolder::RunFolder(std::string path, Manifest manifest, std::vector<Record> records,
                     JournalWriter journal)
    : path_(std::move(path)),
      manifest_(std::move(manifest)),
      records_(std::move(records)),
      journal_(std::move(journal)) {
  for (const Record& record : records_) Remember(record);
}

void RunFolder::Remember(const Record& record) {
  if (record.answer.status.ok()) answered_.insert(record.id);
}

absl::Status RunFolder::Append(const Record& record) {
  TANDEM_RETURN_IF_ERROR(journal_.Append(record));
  records_.push_back(record);
  Remember(record);
  Session& current = session();
  ++current.asked;
  current.prompt_tokens += record.answer.prompt_tokens;
  current.completion_tokens += record.answer.completion_tokens;
  return absl::OkStatus();
}

absl::Status RunFolder::SaveManifest() const {
  return WriteManifest(ManifestPath(path_), manifest_);
}

absl::StatusOr<StoredRun> ReadRun(const std::string& path) {
  StoredRun run;
  TANDEM_ASSIGN_OR_RETURN(run.manifest, ReadManifest(ManifestPath(path)));
  TANDEM_ASSIGN_OR_RETURN(const JournalContents contents, ReadJournal(JournalPath(path)));
  run.records = LatestRecords(contents.records);
  return run;
}

}  // namespace tandem::eval
