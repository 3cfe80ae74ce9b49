// The Unix-domain socket beside a worker's gRPC port: it hands the shared memory over, carries
// wake-ups, and tells each side at once when the other is gone. Its name lies in Linux' abstract
// name space and is made from the worker's address, so that a caller finds it without asking, and
// nothing stays behind when a process is killed. Only processes of the same user are talked to.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lib/rpc/unique_fd.h"

namespace tandem::rpc {

// What the worker says first. Sizes are part of the contract, not of the message: both sides are
// built from the same layout or do not talk.
struct ShmHello {
  uint32_t layout_version = 0;
  std::string address;  // of the worker, as it registered
};

// Raised with every change of shm_ring.h, shm_frame.h or shm_connection.h.
inline constexpr uint32_t kShmLayoutVersion = 1;

// A listening socket for the worker at `address`. ALREADY_EXISTS or another reason of the system.
absl::StatusOr<UniqueFd> ListenForShm(const std::string& address);

// The next connection to `listener` without waiting. NOT_FOUND when there is none,
// PERMISSION_DENIED (the peer is hung up on) when it runs as another user.
absl::StatusOr<UniqueFd> AcceptShm(const UniqueFd& listener);

// Connects to the worker at `address` if it is on this host. UNAVAILABLE when nobody listens (on
// another host, say), PERMISSION_DENIED when it runs as another user.
absl::StatusOr<UniqueFd> ConnectShm(const std::string& address);

// Sends the greeting with the descriptor of the shared memory. Does not wait.
absl::Status SendHello(const UniqueFd& socket, const ShmHello& hello, int memory_fd);

struct ReceivedHello {
  ShmHello hello;
  UniqueFd memory;
};
// Waits up to `wait_max`. DEADLINE_EXCEEDED, UNAVAILABLE when the peer hung up, INVALID_ARGUMENT
// when what came is no greeting.
absl::StatusOr<ReceivedHello> ReceiveHello(const UniqueFd& socket, absl::Duration wait_max);

// Wakes the peer. A full socket means that it has wake-ups to read already; one that is gone is
// noticed elsewhere.
void RingBell(const UniqueFd& socket);

// Reads away what has rung. False when the peer has hung up.
bool SilenceBell(const UniqueFd& socket);

}  // namespace tandem::rpc
