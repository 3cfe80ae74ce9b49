// The journal of a run: one JSON object a line for every question that was asked, holding what
// happened and no judgement, so that a better parser can judge it again later.
//
// Each record is one write(2) to a file opened for appending, so a killed process loses nothing it
// had recorded. The file is synced to disk once a second and at the end, so a power cut loses a
// second's worth. Either may leave a torn last line, which reading drops.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "eval_client/client/answer.h"
#include "eval_client/suites/suite.h"

namespace tandem::eval {

inline constexpr char kVerdictPassed[] = "passed";

struct Record {
  std::string id;
  std::string subject;
  std::string gold;  // as in Question, like the next two
  AnswerKind kind = AnswerKind::kLetter;
  int letters = 4;
  uint64_t seed = 0;
  Answer answer;
  // kCode: what running the answer said: "passed", "failed: ...", "timeout" ... Empty otherwise.
  std::string verdict = {};
  // Where the letters were scored instead of, or beside, asked for: natural-log probability of each
  // of the `letters` letters as the next token, A first. Empty otherwise.
  std::vector<float> letter_logprobs = {};
};

std::string RecordToJsonLine(const Record& record);  // with its line end
// INVALID_ARGUMENT says which key is missing or has the wrong type.
absl::StatusOr<Record> RecordFromJson(const std::string& line);

struct JournalContents {
  std::vector<Record>
      records;  // in file order; an id may occur again where a failed question was asked anew
  uint64_t good_bytes = 0;  // the file's length without a torn last line
  bool torn = false;
};

// NOT_FOUND when there is no such file; DATA_LOSS with the line number when any line but the last
// is broken.
absl::StatusOr<JournalContents> ReadJournal(const std::string& path);

class JournalWriter {
 public:
  // Creates `path` or opens it to append behind its first `good_bytes`, cutting off the rest.
  // FAILED_PRECONDITION while another process has it open.
  static absl::StatusOr<JournalWriter> Open(const std::string& path, uint64_t good_bytes);
  JournalWriter(JournalWriter&& other) noexcept;
  JournalWriter& operator=(JournalWriter&&) = delete;
  ~JournalWriter();  // syncs

  absl::Status Append(const Record& record);

 private:
  JournalWriter(std::string path, int fd) : path_(std::move(path)), fd_(fd) {}

  std::string path_;
  int fd_;
  absl::Duration synced_at_;
};

}  // namespace tandem::eval
