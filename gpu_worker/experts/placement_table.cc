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
