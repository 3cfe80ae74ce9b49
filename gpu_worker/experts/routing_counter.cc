#include "gpu_worker/experts/routing_counter.h"

#include <utility>

#include "lib/base/check.h"

namespace tandem::gpu_worker {

RoutingCounter::RoutingCounter(std::string model_digest, const std::vector<uint32_t>& layers,
                               int64_t experts)
    : model_digest_(std::move(model_digest)) {
  for (const uint32_t layer : layers) {
    rows_.emplace(layer, std::vector<std::atomic<uint64_t>>(experts));
  }
}

void RoutingCounter::Add(uint32_t layer, std::span<const uint32_t> expert_ids) {
  const auto it = rows_.find(layer);
  TANDEM_CHECK(it != rows_.end());
  for (const uint32_t expert : expert_ids) {
    TANDEM_CHECK_LT(expert, it->second.size());
    it->second[expert].fetch_add(1, std::memory_order_relaxed);
  }
}

RoutingCounts RoutingCounter::Counts() const {
  RoutingCounts counts;
  counts.model_digest = model_digest_;
  for (const auto& [layer, rows] : rows_) {
    std::vector<uint64_t>& copy = counts.rows[layer];
    for (const std::atomic<uint64_t>& count : rows) {
      copy.push_back(count.load(std::memory_order_relaxed));
    }
  }
  return counts;
}

}  // namespace tandem::gpu_worker
