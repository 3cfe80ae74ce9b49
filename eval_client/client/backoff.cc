#include "eval_client/client/backoff.h"

#include <algorithm>
#include <random>

#include "lib/base/check.h"

namespace tandem::eval {

bool IsRetryable(const absl::Status& status) {
  return absl::IsUnavailable(status) || absl::IsResourceExhausted(status);
}

absl::Duration BackoffWait(const RetryPolicy& policy, int attempts, uint64_t seed) {
  TANDEM_CHECK_GE(attempts, 1);
  absl::Duration wait = policy.first_wait;
  for (int i = 1; i < attempts && wait < policy.wait_max; ++i) wait *= 2;
  wait = std::min(wait, policy.wait_max);
  std::mt19937_64 draw(seed + static_cast<uint64_t>(attempts));
  return wait * (0.5 + 0.5 * std::uniform_real_distribution<double>()(draw));
}

}  // namespace tandem::eval
