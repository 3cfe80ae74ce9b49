// PlacementTable: the coordinator's placement message, checked and indexed for dispatch: which
// workers hold an expert.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "proto/membership.pb.h"

namespace tandem::gpu_worker {

struct ExpertWorker {
  std::string id;
  std::string address;
  bool ready = false;
};

class PlacementTable {
 public:
  PlacementTable() = default;
  // Indices of workers that the message does not list are left out.
  explicit PlacementTable(const membership::v1::Placement& placement);

  // Adds a worker that is always ready, before all other replicas of `experts` (layer, expert),
  // whether others hold them or not.
  void PutFirst(const std::string& address, std::span<const std::pair<uint32_t, uint32_t>> experts);

  uint64_t epoch() const { return epoch_; }
  const std::vector<ExpertWorker>& workers() const { return workers_; }
  // Indices into workers(), first preferred; empty when the table knows no owner.
  std::span<const uint32_t> Replicas(uint32_t layer, uint32_t expert) const;
  // Whether the worker at `address` is listed and ready.
  bool IsReady(const std::string& address) const;

 private:
  uint64_t epoch_ = 0;
  std::vector<ExpertWorker> workers_;
  absl::flat_hash_map<uint32_t, std::vector<std::vector<uint32_t>>>
      layers_;  // layer -> expert -> replicas
};

}  // namespace tandem::gpu_worker
