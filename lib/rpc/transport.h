// Transport: the second of the project's interfaces, the way from a GPU worker to one expert
// worker. gRPC is one implementation; tests have an in-process one; shared memory can be another.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/experts.pb.h"

namespace tandem::rpc {

class Transport {
 public:
  using Done = std::function<void(absl::StatusOr<experts::v1::ExpertSums>)>;
  virtual ~Transport() = default;

  // Sends `rows` (its call_id and deadline_ms are set here) and calls `done` exactly once, from any
  // thread, no later than `timeout` from now: with the answer (whose status_code has been turned
  // into the absl::Status), UNAVAILABLE when the peer is gone, or DEADLINE_EXCEEDED. Answers after
  // that are dropped. Thread-safe. Returns at once.
  virtual void Call(experts::v1::ExpertRows rows, absl::Duration timeout, Done done) = 0;

  virtual const std::string& address() const = 0;
};

// Long-lived bidirectional gRPC stream to `address`, opened at the first call and again after a
// failure; destruction ends pending calls with CANCELLED before it returns.
std::unique_ptr<Transport> MakeGrpcTransport(const std::string& address);

}  // namespace tandem::rpc
