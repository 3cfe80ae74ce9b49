// WorkerPool: the transports to expert workers, by address, the newest placement table, and a short
// memory of who has just failed, so that the next layer prefers another replica without asking
// again.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "absl/time/time.h"
#include "gpu_worker/experts/placement_table.h"
#include "lib/rpc/transport.h"

namespace tandem::gpu_worker {

// Experts that this process computes itself, as one more worker that is asked before all others.
struct LocalReplicas {
  std::string address;                                      // of no socket
  std::vector<std::pair<uint32_t, uint32_t>> experts = {};  // (layer, expert)
  std::function<std::unique_ptr<rpc::Transport>()> connect = nullptr;
};

struct WorkerPoolOptions {
  // The newest table, or null; see MemberAgent::placement.
  std::function<std::shared_ptr<const membership::v1::Placement>()> placement;
  // See MemberAgent::RefreshPlacement.
  std::function<bool(uint64_t epoch_seen, absl::Duration wait_max)> refresh;
  std::function<std::unique_ptr<rpc::Transport>(const std::string& address)> connect;
  LocalReplicas local = {};
};

class WorkerPool {
 public:
  explicit WorkerPool(WorkerPoolOptions options) : options_(std::move(options)) {}

  // Takes the newest table if there is a newer one; drops connections to workers it no longer
  // lists. True when it changed.
  bool Update();
  // How often Update has changed the table; for callers who do not see every Update themselves.
  uint64_t tables_taken() const { return tables_taken_; }
  // Asks for a table newer than the present one and waits up to `wait_max` for it; Update takes it.
  void AskForNewerTable(absl::Duration wait_max) { options_.refresh(table_.epoch(), wait_max); }
  const PlacementTable& table() const { return table_; }

  // For messages: the address of the worker that holds the expert, ready or not, or that held it
  // last; empty when none ever did.
  std::string HolderOf(uint32_t layer, uint32_t expert) const;

  // Shared, so that a worker that leaves the table while it is being asked does not take it along.
  std::shared_ptr<rpc::Transport> TransportTo(const std::string& address);

  void Suspect(const std::string& address);
  void Trust(const std::string& address) { suspects_.erase(address); }
  // Addresses that failed within the last moments.
  absl::flat_hash_set<std::string> Suspects();

 private:
  void RememberHolders(const membership::v1::Placement& next);

  WorkerPoolOptions options_;
  std::shared_ptr<const membership::v1::Placement> placement_;
  PlacementTable table_;
  uint64_t tables_taken_ = 0;
  // (layer, expert) -> address, for experts without a worker in the present table.
  absl::flat_hash_map<std::pair<uint32_t, uint32_t>, std::string> last_holder_;
  absl::flat_hash_map<std::string, std::shared_ptr<rpc::Transport>> transports_;
  absl::flat_hash_map<std::string, absl::Time> suspects_;  // address -> suspect until
};

}  // namespace tandem::gpu_worker
