// MemberAgent: a worker's tie to the coordinator. Registers, heartbeats, fetches a new placement
// table when the epoch moves, registers again when the coordinator has forgotten it, and says
// goodbye.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "proto/membership.pb.h"

namespace tandem::rpc {

struct MemberAgentOptions {
  std::string coordinator_address;
  membership::v1::RegisterRequest registration;  // worker_id is made up when empty
  // Called on the agent's thread with each new table, before the agent reports its epoch as seen.
  std::function<void(std::shared_ptr<const membership::v1::Placement>)> on_placement;
};

class MemberAgent {
 public:
  // Starts the agent's thread; a coordinator that is not there yet is tried again until it is.
  static std::unique_ptr<MemberAgent> Start(MemberAgentOptions options);
  virtual ~MemberAgent() = default;  // deregisters, within one second

  virtual const std::string& worker_id() const = 0;
  // Reported with the next heartbeat, which is sent at once.
  virtual void SetState(membership::v1::WorkerState state, uint64_t epoch,
                        uint32_t load_percent) = 0;
  // The newest table, or null before the first.
  virtual std::shared_ptr<const membership::v1::Placement> placement() const = 0;
  // Asks for the table now; waits up to `wait_max` for one with an epoch above `epoch_seen`. True
  // when there is one.
  virtual bool RefreshPlacement(uint64_t epoch_seen, absl::Duration wait_max) = 0;
  // Why the coordinator does not take this worker (another model, a bad registration); OK
  // otherwise. It keeps being asked.
  virtual absl::Status refusal() const = 0;
};

}  // namespace tandem::rpc
