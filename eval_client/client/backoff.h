// When to try again, and how long to wait before: only what a later attempt can change, only so
// often, ever more patiently.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace tandem::eval {

struct RetryPolicy {
  int attempts_max = 6;
  absl::Duration first_wait = absl::Milliseconds(200);
  absl::Duration wait_max = absl::Seconds(5);
};

// UNAVAILABLE (server gone or restarting) and RESOURCE_EXHAUSTED (its queue is full): nothing else
// gets better by waiting.
bool IsRetryable(const absl::Status& status);

// The wait after `attempts` failed ones (at least 1): first_wait doubled each time up to wait_max,
// of which a random half is taken off, so that clients turned away together do not come back
// together. `seed` decides the draw.
absl::Duration BackoffWait(const RetryPolicy& policy, int attempts, uint64_t seed);

}  // namespace tandem::eval
