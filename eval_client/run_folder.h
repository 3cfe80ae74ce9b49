// The folder of a run: its journal and manifest, opened fresh or to go on with an earlier run.
#pragma once

#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "absl/status/statusor.h"
#include "eval_client/report/journal.h"
#include "eval_client/report/manifest.h"

namespace tandem::eval {

class RunFolder {
 public:
  // Creates `path` for a run described by `manifest`, or, with `resume`, opens the run it holds.
  // FAILED_PRECONDITION: there is a run already, there is none to resume, it was made under other
  // conditions, or another process is writing it.
  static absl::StatusOr<RunFolder> Open(const std::string& path, bool resume, Manifest manifest);

  const std::string& path() const { return path_; }
  const Manifest& manifest() const { return manifest_; }
  Session& session() { return manifest_.sessions.back(); }
  // What the server says of itself after the run: kernel and precision are known only once it has
  // worked.
  void SetModel(const inference::v1::ModelInfo& model) { manifest_.model = model; }
  // What is recorded so far, earlier sessions included.
  const std::vector<Record>& records() const { return records_; }
  // True when this question has its answer; one that failed has not, and is asked again.
  bool IsAnswered(const std::string& question_id) const { return answered_.contains(question_id); }

  absl::Status Append(const Record& record);
  absl::Status SaveManifest() const;

 private:
  RunFolder(std::string path, Manifest manifest, std::vector<Record> records,
            JournalWriter journal);
  void Remember(const Record& record);

  std::string path_;
  Manifest manifest_;
  std::vector<Record> records_;
  std::unordered_set<std::string> answered_;
  JournalWriter journal_;
};

// The manifest and the latest record of each question of a finished or interrupted run.
struct StoredRun {
  Manifest manifest;
  std::vector<Record> records;
};
absl::StatusOr<StoredRun> ReadRun(const std::string& path);

}  // namespace tandem::eval
