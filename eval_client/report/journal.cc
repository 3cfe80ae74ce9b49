#include "eval_client/report/journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <cfloat>
#include <cmath>
#include <string_view>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "lib/base/clock.h"
#include "lib/base/mapped_file.h"
#include "lib/base/status_macros.h"
#include "nlohmann/json.hpp"

namespace tandem::eval {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kLettersWithoutKey = 4;
constexpr int kLettersMax = 26;
constexpr uint64_t kLastStatusCode = static_cast<uint64_t>(absl::StatusCode::kUnauthenticated);

std::string FinishName(Finish finish) {
  return finish == Finish::kStop ? "stop" : finish == Finish::kLength ? "length" : "";
}

Finish FinishNamed(const std::string& name) {
  return name == "stop" ? Finish::kStop : name == "length" ? Finish::kLength : Finish::kUnknown;
}

// Reads the keys of one object; the first wrong one is remembered.
class Fields {
 public:
  explicit Fields(const Json& object) : object_(object) {}

  std::string String(const char* key) {
    return Good(key, Has(key) && object_[key].is_string()) ? object_[key].get<std::string>() : "";
  }
  uint64_t Unsigned(const char* key, uint64_t max) {
    const bool good = Has(key) && object_[key].is_number_unsigned();
    const uint64_t value = good ? object_[key].get<uint64_t>() : 0;
    return Good(key, good && value <= max) ? value : 0;
  }
  std::string OptionalString(const char* key, const std::string& absent) {
    return Has(key) ? String(key) : absent;
  }
  uint64_t OptionalUnsigned(const char* key, uint64_t max, uint64_t absent) {
    return Has(key) ? Unsigned(key, max) : absent;
  }
  std::vector<float> OptionalFloats(const char* key) {
    std::vector<float> values;
    if (!Has(key) || !Good(key, object_[key].is_array())) return values;
    for (const Json& value : object_[key]) {
      // A number too large for a float would be written out as no number.
      const double number = value.is_number() ? value.get<double>() : HUGE_VAL;
      const bool good = std::abs(number) <= FLT_MAX && values.size() < kLettersMax;
      if (!Good(key, good)) return values;
      values.push_back(static_cast<float>(number));
    }
    return values;
  }
  void MarkWrong(const char* key) { Good(key, false); }
  absl::Status status() const { return status_; }

 private:
  bool Has(const char* key) const { return object_.is_object() && object_.contains(key); }
  bool Good(const char* key, bool good) {
    if (!good && status_.ok()) {
      status_ = absl::InvalidArgumentError(absl::StrCat("key '", key, "' is missing or wrong"));
    }
    return good;
  }

  const Json& object_;
  absl::Status status_;
};

absl::Status ErrnoStatus(const std::string& what, const std::string& path) {
  return absl::ErrnoToStatus(errno, absl::StrCat(what, " ", path));
}

}  // namespace

std::string RecordToJsonLine(const Record& record) {
  const Answer& answer = record.answer;
  Json json = {{"id", record.id},
               {"subject", record.subject},
               {"gold", record.gold},
               {"seed", record.seed},
               {"code", static_cast<unsigned>(answer.status.code())},
               {"error", std::string(answer.status.message())},
               {"text", answer.text},
               {"finish", FinishName(answer.finish)},
               {"prompt_tokens", answer.prompt_tokens},
               {"completion_tokens", answer.completion_tokens},
               {"queue_us", answer.queue_us},
               {"first_token_us", answer.first_token_us},
               {"total_us", answer.total_us},
               {"wall_us", absl::ToInt64Microseconds(answer.wall)},
               {"attempts", static_cast<unsigned>(answer.attempts)}};
  // Keys that say nothing are left out, so that journals of choice suites stay what they were.
  if (record.kind != AnswerKind::kLetter) json["kind"] = KindName(record.kind);
  if (record.letters != kLettersWithoutKey) json["letters"] = record.letters;
  if (!record.verdict.empty()) json["verdict"] = record.verdict;
  if (!record.letter_logprobs.empty()) json["letter_logprobs"] = record.letter_logprobs;
  // A server's text is UTF-8 by contract; should it not be, U+FFFD beats an exception.
  return json.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

absl::StatusOr<Record> RecordFromJson(const std::string& line) {
  const Json json = Json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return absl::InvalidArgumentError("not JSON");
  Fields fields(json);
  Record record;
  record.id = fields.String("id");
  record.subject = fields.String("subject");
  record.gold = fields.String("gold");
  const auto kind = KindNamed(fields.OptionalString("kind", KindName(AnswerKind::kLetter)));
  record.letters =
      static_cast<int>(fields.OptionalUnsigned("letters", kLettersMax, kLettersWithoutKey));
  record.verdict = fields.OptionalString("verdict", "");
  record.letter_logprobs = fields.OptionalFloats("letter_logprobs");
  record.seed = fields.Unsigned("seed", UINT64_MAX);
  Answer& answer = record.answer;
  const auto code = static_cast<absl::StatusCode>(fields.Unsigned("code", kLastStatusCode));
  answer.status = absl::Status(code, fields.String("error"));
  answer.text = fields.String("text");
  answer.finish = FinishNamed(fields.String("finish"));
  answer.prompt_tokens = fields.Unsigned("prompt_tokens", UINT32_MAX);
  answer.completion_tokens = fields.Unsigned("completion_tokens", UINT32_MAX);
  answer.queue_us = fields.Unsigned("queue_us", UINT64_MAX);
  answer.first_token_us = fields.Unsigned("first_token_us", UINT64_MAX);
  answer.total_us = fields.Unsigned("total_us", UINT64_MAX);
  answer.wall = absl::Microseconds(fields.Unsigned("wall_us", INT64_MAX));
  answer.attempts = static_cast<int>(fields.Unsigned("attempts", INT32_MAX));
  if (!kind) fields.MarkWrong("kind");
  if (kind == AnswerKind::kLetter && record.gold.size() != 1) fields.MarkWrong("gold");
  TANDEM_RETURN_IF_ERROR(fields.status());
  record.kind = *kind;
  return record;
}

absl::StatusOr<JournalContents> ReadJournal(const std::string& path) {
  TANDEM_ASSIGN_OR_RETURN(base::MappedFile file, base::MappedFile::Open(path));
  const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                              file.bytes().size());
  JournalContents contents;
  for (int number = 1; contents.good_bytes < text.size(); ++number) {
    const size_t end = text.find('\n', contents.good_bytes);
    if (end == std::string_view::npos) {
      contents.torn = true;
      break;
    }
    auto record =
        RecordFromJson(std::string(text.substr(contents.good_bytes, end - contents.good_bytes)));
    if (!record.ok() && end + 1 < text.size()) {
      return absl::DataLossError(
          absl::StrFormat("%s line %d: %s", path, number, std::string(record.status().message())));
    }
    if (!record.ok()) {
      contents.torn = true;
      break;
    }
    contents.records.push_back(*std::move(record));
    contents.good_bytes = end + 1;
  }
  return contents;
}

absl::StatusOr<JournalWriter> JournalWriter::Open(const std::string& path, uint64_t good_bytes) {
  const int fd = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (fd < 0) return ErrnoStatus("cannot open", path);
  JournalWriter writer(path, fd);
  if (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    return absl::FailedPreconditionError(absl::StrCat(path, " is being written by another run"));
  }
  if (ftruncate(fd, static_cast<off_t>(good_bytes)) != 0) return ErrnoStatus("cannot cut", path);
  return writer;
}

JournalWriter::JournalWriter(JournalWriter&& other) noexcept
    : path_(std::move(other.path_)),
      fd_(std::exchange(other.fd_, -1)),
      synced_at_(other.synced_at_) {}

JournalWriter::~JournalWriter() {
  if (fd_ < 0) return;
  fdatasync(fd_);
  close(fd_);
}

absl::Status JournalWriter::Append(const Record& record) {
  const std::string line = RecordToJsonLine(record);
  const ssize_t written = write(fd_, line.data(), line.size());
  if (written < 0) return ErrnoStatus("cannot write", path_);
  if (static_cast<size_t>(written) != line.size()) {
    return absl::ResourceExhaustedError(absl::StrCat("cannot write all of a record to ", path_));
  }
  const absl::Duration now = base::RealClock().Monotonic();
  if (now - synced_at_ < absl::Seconds(1)) return absl::OkStatus();
  synced_at_ = now;
  return fdatasync(fd_) == 0 ? absl::OkStatus() : ErrnoStatus("cannot sync", path_);
}

}  // namespace tandem::eval
