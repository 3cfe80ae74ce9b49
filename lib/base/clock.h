// Clock: the first of the project's four interfaces. Everything that waits or measures asks one, so
// that tests can run a cluster on simulated time.
#pragma once

#include "absl/time/time.h"

namespace tandem::base {

class Clock {
 public:
  virtual ~Clock() = default;
  // Wall-clock time, for logs and deadlines that cross machines.
  virtual absl::Time Now() const = 0;
  // Time since an arbitrary start, never going back; for intervals.
  virtual absl::Duration Monotonic() const = 0;
};

// The machine's own clock. Lives for ever; thread-safe.
const Clock& RealClock();

}  // namespace tandem::base
