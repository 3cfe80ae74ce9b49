// `tandem-eval run` behind its flags: load a suite, wait for the model, ask, record, report.
#pragma once

#include <cstdint>
#include <string>

namespace tandem::eval {

// 1: some question failed or the run broke off; what was answered is in the journal. See also
// lib/base/program.h.
inline constexpr int kExitBelowThreshold = 5;  // the score is below --fail-under
inline constexpr int kExitInterrupted = 130;   // SIGINT or SIGTERM; --resume goes on

struct RunOptions {
  std::string suite = "quiz";
  std::string data;  // empty: the suite's default
  std::string endpoint = "127.0.0.1:50051";
  int concurrency = 8;
  uint32_t max_tokens = 16;
  float temperature = 0.6f;
  uint64_t seed = 0;
  int limit = 0;    // 0: as many as the suite asks by default
  std::string out;  // empty: eval_runs/<suite>-<time>
  bool resume = false;
  bool json = false;
  double fail_under_percent = 0.0;
  double ready_wait_s = 60.0;
  double question_timeout_s = 120.0;
};

// Prints the result on stdout and everything else on stderr. Returns the exit code. `command_line`
// goes into the manifest.
int RunSuite(const RunOptions& options, const std::string& command_line);

struct ReportOptions {
  std::string folder;
  std::string baseline;  // empty: no comparison
  bool json = false;
};

// Prints the result of a stored run, judged anew. Returns the exit code.
int ReportRun(const ReportOptions& options);

}  // namespace tandem::eval
