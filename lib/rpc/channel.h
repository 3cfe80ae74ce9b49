// How every client of the project connects: keepalive that notices a dead peer, message limits that
// fit a prefill chunk, and a short reconnect backoff, so that a restarted peer is found within half
// a second.
#pragma once

#include <memory>
#include <string>

#include "absl/time/time.h"

namespace grpc {
class Channel;
}

namespace tandem::rpc {

// An insecure channel of its own (connections are not shared with other channels). Connects at the
// first call.
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address);

// The same for calls that are few and small, as heartbeats: does not measure the connection's
// bandwidth, which costs pings after every message.
std::shared_ptr<grpc::Channel> MakeQuietChannel(const std::string& address);

// Waits until the channel is connected; false when that took longer than `wait_max`.
bool WaitForConnected(grpc::Channel& channel, absl::Duration wait_max);

}  // namespace tandem::rpc
