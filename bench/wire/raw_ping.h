// What a round trip costs without us: the same bytes there and back between two processes, over a
// blocking socket or through shared memory both look at all the time.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::bench {

enum class RawWay { kTcp, kUnix, kShm };

struct RawPing {
  int64_t there_bytes = 0;
  int64_t back_bytes = 0;
  int rounds = 0;
};

// Microseconds of each round trip, in order. Each side copies what it gets out and what it sends
// in, as a program with buffers of its own does. Forks the peer: call before this process has
// threads.
absl::StatusOr<std::vector<double>> MeasureRawPing(RawWay way, const RawPing& ping);

}  // namespace tandem::bench
