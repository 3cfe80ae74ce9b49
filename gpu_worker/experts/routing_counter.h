// RoutingCounter: how many rows chose each expert since the worker started. Counts of all layers of
// a large model are some 15,000 numbers, too many for a metrics page; they go to a file, from which
// `tandem hot-experts` makes a list.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "lib/model/hot_experts.h"

namespace tandem::gpu_worker {

class RoutingCounter {
 public:
  // `layers`: those with experts, of which each has `experts`.
  RoutingCounter(std::string model_digest, const std::vector<uint32_t>& layers, int64_t experts);

  // The experts of one row; ids and layer as given to the constructor (CHECKed). For one thread.
  void Add(uint32_t layer, std::span<const uint32_t> expert_ids);
  // From any thread. Rows that are being counted may be there in part.
  RoutingCounts Counts() const;

 private:
  const std::string model_digest_;
  std::map<uint32_t, std::vector<std::atomic<uint64_t>>> rows_;  // by layer, [experts]
};

}  // namespace tandem::gpu_worker
