// Combine: adds up what expert workers send back. On the grid the terms of a row are integers, so
// any grouping of experts on workers gives the same sum (architecture.md, "The routed sum is
// exact"); rows that left the grid, and all rows in f32 mode, come per expert and are added in the
// order of the router's ranks.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "gpu_worker/experts/dispatch.h"
#include "lib/rpc/expert_call.h"

namespace tandem::gpu_worker {

class Combine {
 public:
  // `buffer` is memory to use again, from an earlier layer's TakeBuffer: a fresh one costs more
  // than the additions.
  explicit Combine(const RoutedLayer& layer, std::vector<int32_t> buffer = {});
  std::vector<int32_t> TakeBuffer() { return std::move(steps_); }

  // Adds a worker's answer to `frame`. INTERNAL (expected and found) when its sizes do not fit;
  // nothing is added then.
  absl::Status AddGridSums(const Frame& frame, const rpc::Answer& answer);
  absl::Status AddPerExpert(const Frame& frame, const rpc::Answer& answer);

  // Rows some worker flagged as outside the grid, ascending.
  std::vector<int64_t> FlaggedRows() const;

  // Writes the sum of each row to routed [rows, hidden]: the per-expert terms by rank where there
  // are any, else the grid's.
  void Finish(std::span<float> routed) const;

 private:
  const RoutedLayer& layer_;
  // [rows, hidden] multiples of 2^grid_exponent; rows without `has_steps_` hold something old.
  std::vector<int32_t> steps_;
  std::vector<bool> has_steps_;  // [rows]
  std::vector<bool> flagged_;    // [rows]
  // row -> [experts_per_row, hidden] weighted outputs by rank
  absl::flat_hash_map<int64_t, std::vector<float>> terms_;
};

}  // namespace tandem::gpu_worker
