#include "eval_client/client/retry.h"

#include <algorithm>

#include "absl/time/clock.h"
#include "lib/base/clock.h"

namespace tandem::eval {

Answer AskWithRetries(const AskOptions& options, uint64_t seed, const AttemptHooks& hooks) {
  const absl::Duration started = base::RealClock().Monotonic();
  const absl::Time deadline = absl::Now() + options.timeout;
  Answer answer;
  for (int attempt = 1;; ++attempt) {
    answer = hooks.once(deadline);
    answer.attempts = attempt;
    if (!IsRetryable(answer.status) || attempt >= options.retry.attempts_max) break;
    const absl::Duration wait =
        std::max(answer.retry_after, BackoffWait(options.retry, attempt, seed));
    if (absl::Now() + wait >= deadline) break;
    if (hooks.sleep_unless_cancelled(wait)) {
      answer.status = absl::CancelledError("stopped between attempts");
      break;
    }
  }
  if (!answer.status.ok()) {
    Answer failed;
    failed.status = answer.status;
    failed.attempts = answer.attempts;
    answer = failed;
  }
  answer.wall = base::RealClock().Monotonic() - started;
  return answer;
}

}  // namespace tandem::eval
