#include "gpu_worker/experts/placement_table.h"

#include <algorithm>

namespace tandem::gpu_worker {

PlacementTable::PlacementTable(const membership::v1::Placement& placement)
    : epoch_(placement.epoch()) {
  for (const auto& worker : placement.workers()) {
    workers_.push_back({worker.worker_id(), worker.address(), worker.ready()});
  }
  for (const auto& layer : placement.layers()) {
    auto& experts = layers_[layer.layer()];
    for (const auto& expert : layer.experts()) {
      std::vector<uint32_t>& replicas = experts.emplace_back();
      for (const uint32_t worker : expert.workers()) {
        if (worker < workers_.size()) replicas.push_back(worker);
      }
    }
  }
}

void PlacementTable::PutFirst(const std::string& address,
                              std::span<const std::pair<uint32_t, uint32_t>> experts) {
  const auto index = static_cast<uint32_t>(workers_.size());
  workers_.push_back({address, address, true});
  for (const auto& [layer, expert] : experts) {
    auto& replicas = layers_[layer];
    if (replicas.size() <= expert) replicas.resize(expert + 1);
    replicas[expert].insert(replicas[expert].begin(), index);
  }
}

std::span<const uint32_t> PlacementTable::Replicas(uint32_t layer, uint32_t expert) const {
  const auto it = layers_.find(layer);
  if (it == layers_.end() || expert >= it->second.size()) return {};
  return it->second[expert];
}

bool PlacementTable::IsReady(const std::string& address) const {
  return std::any_of(workers_.begin(), workers_.end(), [&](const ExpertWorker& worker) {
    return worker.ready && worker.address == address;
  });
}

}  // namespace tandem::gpu_worker
