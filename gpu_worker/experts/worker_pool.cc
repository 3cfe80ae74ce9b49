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
  RememberHolders(*newest);
  placement_ = std::move(newest);
  table_ = PlacementTable(*placement_);
  if (!options_.local.experts.empty()) {
    table_.PutFirst(options_.local.address, options_.local.experts);
  }
  ++tables_taken_;
  absl::flat_hash_set<std::string> listed;
  for (const ExpertWorker& worker : table_.workers()) listed.insert(worker.address);
  absl::erase_if(transports_, [&](const auto& entry) { return !listed.contains(entry.first); });
  return true;
}

void WorkerPool::RememberHolders(const membership::v1::Placement& next) {
  for (const auto& layer : next.layers()) {
    for (int e = 0; e < layer.experts_size(); ++e) {
      const uint32_t expert = static_cast<uint32_t>(e);
      if (layer.experts(e).workers_size() > 0) {
        last_holder_.erase({layer.layer(), expert});
      } else if (std::string holder = HolderOf(layer.layer(), expert); !holder.empty()) {
        last_holder_[{layer.layer(), expert}] = std::move(holder);
      }
    }
  }
}

std::string WorkerPool::HolderOf(uint32_t layer, uint32_t expert) const {
  const std::span<const uint32_t> replicas = table_.Replicas(layer, expert);
  if (!replicas.empty()) return table_.workers()[replicas[0]].address;
  const auto it = last_holder_.find({layer, expert});
  return it == last_holder_.end() ? "" : it->second;
}

std::shared_ptr<rpc::Transport> WorkerPool::TransportTo(const std::string& address) {
  std::shared_ptr<rpc::Transport>& transport = transports_[address];
  if (transport != nullptr) return transport;
  const bool local = !options_.local.experts.empty() && address == options_.local.address;
  transport = local ? options_.local.connect() : options_.connect(address);
  return transport;
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
