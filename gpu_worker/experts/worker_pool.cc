#include "gpu_worker/experts/worker_pool.h"

#include "absl/time/clock.h"

namespace tandem::gpu_worker {
namespace {

// Long enough to cover the layers of a few steps, short enough to notice a worker that is back
// before a lease (seconds) ends.
constexpr absl::Duration kSuspectTime = absl::Seconds(2);

}  // namespace

bool WorkerPool::Update() {
  std::shared_ptr<const membership::v1::Placement> newest = options_.placement();
  if (newest == nullptr || newest == placement_) return false;
  placement_ = std::move(newest);
  table_ = PlacementTable(*placement_);
  absl::flat_hash_set<std::string> listed;
  for (const ExpertWorker& worker : table_.workers()) listed.insert(worker.address);
  absl::erase_if(transports_, [&](const auto& entry) { return !listed.contains(entry.first); });
  return true;
}

rpc::Transport& WorkerPool::TransportTo(const std::string& address) {
  std::unique_ptr<rpc::Transport>& transport = transports_[address];
  if (transport == nullptr) transport = options_.connect(address);
  return *transport;
}

void WorkerPool::Suspect(const std::string& address) {
  suspects_[address] = absl::Now() + kSuspectTime;
}

absl::flat_hash_set<std::string> WorkerPool::Suspects() {
  absl::erase_if(suspects_, [](const auto& entry) { return entry.second < absl::Now(); });
  absl::flat_hash_set<std::string> addresses;
  for (const auto& [address, until] : suspects_) addresses.insert(address);
  return addresses;
}

}  // namespace tandem::gpu_worker
