// Transport: the second of the project's interfaces, the way from a GPU worker to one expert
// worker. gRPC is one implementation, shared memory another, for a worker on the same host; tests
// have an in-process one.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lib/rpc/expert_call.h"

namespace tandem::rpc {

class Transport {
 public:
  using Done = std::function<void(absl::StatusOr<Answer>)>;
  virtual ~Transport() = default;

  // Sends `call`, which has been read when this returns, and calls `done` exactly once, from any
  // thread, no later than `timeout` from now: with the answer (whose status has been turned into
  // the absl::Status), UNAVAILABLE when the peer is gone, or DEADLINE_EXCEEDED. Answers after that
  // are dropped. An answer may hold memory the transport needs for others: let go of it soon.
  // Thread-safe. Returns at once, but for half a second at most while a connection is opened.
  virtual void Call(const OutgoingCall& call, absl::Duration timeout, Done done) = 0;

  // A thread that is going to wait for answers may look for them itself, which saves a wake-up
  // where the transport can be looked at. Between StartPolling and StopPolling, which come in
  // pairs, `done` is called from within Poll, so whoever started has to go on polling or stop;
  // deadlines and lost peers are noticed all the same. Poll returns true when it called any.
  // Transports that bring answers by themselves need none of the three.
  // CanPoll tells whether there is something to look at now.
  virtual bool CanPoll() { return false; }
  virtual void StartPolling() {}
  virtual bool Poll() { return false; }
  virtual void StopPolling() {}

  virtual const std::string& address() const = 0;
};

// Long-lived bidirectional gRPC stream to `address`, opened at the first call and again after a
// failure; destruction ends pending calls with CANCELLED before it returns.
std::unique_ptr<Transport> MakeGrpcTransport(const std::string& address);

enum class TransportChoice {
  kAuto,  // shared memory where the worker can be found on this host, gRPC elsewhere
  kGrpc,
  kShm,  // shared memory; calls to a worker that has none here fail UNAVAILABLE
};
// "auto", "grpc" or "shm".
std::optional<TransportChoice> ParseTransportChoice(std::string_view text);

// The way to `address` under `choice`. Which one was taken is said in the log, whenever it changes.
// Calls too large for shared memory go through gRPC, which is said once.
std::unique_ptr<Transport> MakeTransport(const std::string& address, TransportChoice choice);

}  // namespace tandem::rpc
