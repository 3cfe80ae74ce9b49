// `tandem-eval run` behind its flags: load suites, wait for the model, ask, record, report.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "eval_client/client/endpoint.h"
#include "eval_client/suites/suite.h"

namespace tandem::eval {

// 1: some question failed or the run broke off; what was answered is in the journal. See also
// lib/base/program.h.
inline constexpr int kExitBelowThreshold = 5;  // the score is below --fail-under
inline constexpr int kExitInterrupted = 130;   // SIGINT or SIGTERM; --resume goes on

struct RunOptions {
  std::vector<std::string> suites = {"quiz"};
  // Of every suite; `name` is filled in from `suites`. `data` empty: the suite's default.
  SuiteOptions suite;
  EndpointOptions endpoint = {.address = "127.0.0.1:50051"};
  int concurrency = 8;
  uint32_t max_tokens = 16;  // where neither the suite nor its options say
  float temperature = 0.6f;  // likewise
  uint64_t seed = 0;
  bool letters = true;
  std::string out;  // empty: eval_runs/<suite>-<time>; of several suites: each has a folder in it
  bool resume = false;
  bool json = false;
  double fail_under_percent = 0.0;
  double ready_wait_s = 60.0;
  double question_timeout_s = 120.0;
};

// Where a run of `suite` keeps its journal: `out`, or a folder in it when several are run.
std::string SuiteFolder(const std::string& out, const std::string& suite, bool several);

// Runs the suites one after another. Prints results on stdout and everything else on stderr.
// Returns the exit code: the first that is not 0, after running what can still be run.
// `command_line` goes into the manifest. With --resume of several suites, one that has no folder
// yet is started.
int RunSuites(const RunOptions& options, const std::string& command_line);

struct ReportOptions {
  std::string folder;
  std::string baseline;  // empty: no comparison
  bool json = false;
};

// Prints the result of a stored run, judged anew. Returns the exit code.
int ReportRun(const ReportOptions& options);

}  // namespace tandem::eval
