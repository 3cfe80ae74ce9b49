// The manifest of a run: everything a figure depends on, beside the journal it was made from.
// Without it a score is hearsay; with it a run can be repeated, resumed and compared.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "eval_client/suites/answer_parser.h"
#include "proto/inference.pb.h"

namespace tandem::eval {

// One start of the program; a resumed run has several.
struct Session {
  std::string command_line;
  std::string started;              // RFC 3339, UTC
  std::string ended;                // empty while running
  std::string outcome = "running";  // then "finished" or "interrupted"
  int64_t asked = 0;                // questions recorded in this session
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  double wall_s = 0.0;
};

struct Manifest {
  std::string tool_version;
  std::string suite;
  // How the suite was asked, where it has more than one way; as SuiteOptions has them.
  std::string variant;
  int64_t shots = -1;
  int64_t samples = 1;
  std::string data_path;
  std::string data_sha256;
  std::string prompts_sha256;
  int64_t questions = 0;
  std::string headline_parser;
  std::string endpoint;
  inference::v1::ModelInfo model;
  float temperature = 0.0f;
  uint32_t max_tokens = 0;
  uint64_t seed = 0;
  int64_t concurrency = 0;
  std::string host_cpu;
  int64_t host_cores = 0;
  std::vector<Session> sessions;
};

std::string ManifestToJson(const Manifest& manifest);
absl::StatusOr<Manifest> ManifestFromJson(const std::string& text);

// Replaces the file in one step, so that a reader never sees half of it.
absl::Status WriteManifest(const std::string& path, const Manifest& manifest);
absl::StatusOr<Manifest> ReadManifest(const std::string& path);

// OK when answers made under both belong together: same questions, sampling and model.
// FAILED_PRECONDITION names the first difference. Endpoint, concurrency, host and the number of
// workers may differ: no answer depends on them.
// Nor does what one of the two does not know: a server tells its kernel and precision after its
// first step only.
absl::Status CheckSameRun(const Manifest& earlier, const Manifest& now);

// The parser whose score is the run's score; the strict one when the manifest names one unknown
// here.
AnswerParser HeadlineParser(const Manifest& manifest);

// Time and tokens of all sessions together.
struct Speed {
  int64_t asked = 0;
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  double wall_s = 0.0;
  double per_second(int64_t count) const { return wall_s > 0.0 ? count / wall_s : 0.0; }
};
Speed TotalSpeed(const Manifest& manifest);

// Now, in UTC, as strftime's `format` says.
std::string UtcTime(const char* format);

// CPU name and core count of this machine into `manifest`.
void DescribeHost(Manifest* manifest);

}  // namespace tandem::eval
