// ShmTransport: the caller's end of the shared-memory transport.
#pragma once

#include <memory>
#include <string>

#include "lib/rpc/transport.h"

namespace tandem::rpc {

// Transport's own contract, and for the choice between transports:
class ShmTransport : public Transport {
 public:
  static std::unique_ptr<ShmTransport> Make(const std::string& address);

  // Connects if there is no connection. Says why the worker cannot be reached this way; UNAVAILABLE
  // is the usual one, for a worker on another host. Call does the same first.
  virtual absl::Status Attach() = 0;
  // Whether call and answer fit the rings.
  virtual bool Fits(const OutgoingCall& call) const = 0;
};

}  // namespace tandem::rpc
