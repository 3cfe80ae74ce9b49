// Mailbox: where the answers to all calls of one link arrive, whichever exchange they belong to.
// Exchanges share it because they share the transports: who polls a transport takes everybody's
// answers out of it, and who goes to sleep must leave nobody believing that it is polled.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "lib/rpc/spin_wait.h"
#include "lib/rpc/transport.h"

namespace tandem::gpu_worker {

struct Arrival {
  uint64_t frame_id = 0;
  int64_t at_ns = 0;  // CLOCK_MONOTONIC, when it was taken out of its transport
  absl::StatusOr<rpc::Answer> answer;
};

// Used by one thread; only transports' threads put something in.
class Mailbox {
 public:
  // `spin_max`: how long Wait looks for answers itself before it sleeps.
  explicit Mailbox(absl::Duration spin_max) : spin_max_(spin_max) {}
  ~Mailbox() { StopPolling(); }
  Mailbox(const Mailbox&) = delete;

  // Sends the call; its answer arrives under the number returned, which is never given twice.
  uint64_t Call(const std::shared_ptr<rpc::Transport>& transport, const rpc::OutgoingCall& call,
                absl::Duration timeout);

  // What has arrived, in that order; waits for the first at most `wait_max`.
  std::deque<Arrival> Wait(absl::Duration wait_max);

  // Nobody looks any more until the next Call; answers still arrive, by the transports' threads.
  void StopPolling();

 private:
  // Shared with the transports' callbacks, which may come after this object is gone.
  struct Inbox {
    absl::Mutex mutex;
    std::deque<Arrival> arrivals ABSL_GUARDED_BY(mutex);
    std::atomic<bool> any{false};  // for looking without the mutex
  };

  void PollFrom(const std::shared_ptr<rpc::Transport>& transport);
  bool SpinForArrivals();

  const absl::Duration spin_max_;
  const std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>();
  uint64_t next_frame_id_ = 1;
  rpc::SpinHabit spin_;
  // Transports this thread looks at itself, by address.
  absl::flat_hash_map<std::string, std::shared_ptr<rpc::Transport>> polled_;
};

}  // namespace tandem::gpu_worker
