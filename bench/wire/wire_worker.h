// The worker's side of the dispatch benchmark, in a process of its own: the real service and
// compute loop over a model with one small expert layer, behind all three transports.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace tandem::bench {

struct WireShape {
  int64_t hidden = 7168;
  int64_t experts_per_token = 8;
};

// The layer with the experts, and how many it has. Each is as small as its format allows, so that
// arithmetic does not hide the way.
inline constexpr uint32_t kWireLayer = 0;
inline constexpr int64_t kWireExperts = 8;

// Writes the model into `folder`, serves it until standard input ends, and prints one JSON line
// with its addresses and digest before.
absl::Status ServeWire(const WireShape& shape, const std::string& folder);

}  // namespace tandem::bench
