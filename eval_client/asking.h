// Asking: the part of a run that talks to the server, from the first open question to the last
// answer in the journal.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "eval_client/client/endpoint.h"
#include "eval_client/report/progress.h"
#include "eval_client/report/tally.h"
#include "eval_client/run_folder.h"
#include "eval_client/suites/suite.h"

namespace tandem::eval {

struct AskingOptions {
  AskOptions ask;  // what a question does not say itself
  uint64_t seed = 0;
  int concurrency = 1;
  bool letters = true;  // ask for the letters' log probabilities where a question has letters
  // Runs the program a kCode question was answered with, and says how that went; called from
  // several threads. An error counts as a failed question. Null when the suite has no such.
  std::function<absl::StatusOr<std::string>(const Question& question, const std::string& answer)>
      run_code;
};

class Asking {
 public:
  // All arguments must outlive this.
  Asking(const AskingOptions& options, const Suite& suite, const Endpoint& endpoint,
         RunFolder& folder);

  // Asks what is not answered yet and keeps the folder's journal and manifest up to date. CANCELLED
  // when the user stops; otherwise the first error that makes going on pointless.
  absl::Status Run();

 private:
  Answer Ask(const Question& question) const;
  absl::Status Store(const Question& question, const Answer& answer);
  void Count(Outcome outcome);
  void EndSession(const absl::Status& status);
  ProgressState CurrentState();

  const AskingOptions& options_;
  const AnswerParser parser_;
  const Endpoint& endpoint_;
  RunFolder& folder_;
  Progress progress_;
  const absl::Duration started_;
  std::vector<const Question*> open_;
  ProgressState state_;
  int failed_in_a_row_ = 0;
};

}  // namespace tandem::eval
