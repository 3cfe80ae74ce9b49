// What comes back for one question, whoever asked: plain data between the client, the journal and
// the tests.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace tandem::eval {

enum class Finish { kUnknown, kStop, kLength };

struct Answer {
  absl::Status status;  // not OK: the question has no answer, and the rest is empty
  std::string text;     // all of it, as it came
  Finish finish = Finish::kUnknown;
  uint32_t prompt_tokens = 0;
  uint32_t completion_tokens = 0;
  uint64_t queue_us = 0;  // as the server measured them
  uint64_t first_token_us = 0;
  uint64_t total_us = 0;
  absl::Duration wall;  // as the client measured it, retries and their waits included
  int attempts = 0;
  // Where letters were asked for and the server could tell: natural-log probability of each as the
  // first token of the answer, A first. Empty otherwise.
  std::vector<float> letter_logprobs = {};
  // A program's answer that was run: "passed", "failed: ...". Empty otherwise.
  std::string verdict = {};
  absl::Duration retry_after = {};  // of a refusal: how long the server wants to be left alone
};

}  // namespace tandem::eval
