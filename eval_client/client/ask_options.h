// How one question is asked, whichever protocol carries it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "eval_client/client/backoff.h"

namespace tandem::eval {

struct AskOptions {
  float temperature = 0.6f;
  uint32_t max_tokens = 16;
  bool continue_text = false;     // the prompt is text to continue, not a chat message
  std::vector<std::string> stop;  // strings that end the answer and are left out of it
  // > 0: also wants the log probabilities of the first so many letters of the alphabet as the first
  // token of the answer, from the same forward pass.
  int letters = 0;
  absl::Duration timeout = absl::Seconds(120);  // per question, all its attempts together
  RetryPolicy retry;
};

}  // namespace tandem::eval
