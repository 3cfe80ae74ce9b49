// The loop around one question: attempts until there is an answer, the policy gives up, the time is
// over or the user stops. The same for every protocol.
#pragma once

#include <functional>

#include "eval_client/client/answer.h"
#include "eval_client/client/ask_options.h"

namespace tandem::eval {

struct AttemptHooks {
  // One attempt, over by `deadline`.
  std::function<Answer(absl::Time deadline)> once;
  // Waits; true when cut short because the user stops.
  std::function<bool(absl::Duration wait)> sleep_unless_cancelled;
};

// The answer of the last attempt, without its text when it failed; `attempts` and `wall` filled in.
// Waits at least as long as the server asked for (Answer::retry_after). `seed` decides the random
// part of the waits.
Answer AskWithRetries(const AskOptions& options, uint64_t seed, const AttemptHooks& hooks);

}  // namespace tandem::eval
