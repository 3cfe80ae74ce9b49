// SuiteRun: one suite asked of one endpoint, with its folder. What `run` does for a user and
// `table` for every row.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "eval_client/asking.h"
#include "eval_client/client/endpoint.h"
#include "eval_client/run_folder.h"
#include "eval_client/suites/suite.h"

namespace tandem::eval {

struct SuiteRunOptions {
  SuiteOptions suite;
  EndpointOptions endpoint;
  AskingOptions asking;
  std::string out;           // folder of the run
  bool resume = false;       // go on with the run there
  double ready_wait_s = 60;  // for the model to become ready
  std::string command_line;  // for the manifest
};

class SuiteRun {
 public:
  // Loads the suite, waits for the model and opens the folder. CANCELLED when the user stops the
  // waiting; otherwise one sentence why the run cannot start.
  static absl::StatusOr<std::unique_ptr<SuiteRun>> Open(const SuiteRunOptions& options);

  // Asks what is open. Errors are those of Asking::Run.
  absl::Status Ask();

  const RunFolder& folder() const { return *folder_; }
  const Suite& suite() const { return *suite_; }

 private:
  explicit SuiteRun(const SuiteRunOptions& options) : options_(options) {}

  SuiteRunOptions options_;
  std::unique_ptr<Suite> suite_;
  Endpoint endpoint_;
  std::unique_ptr<RunFolder> folder_;
};

// True when a run was begun in `folder`.
bool HasRun(const std::string& folder);

}  // namespace tandem::eval
