// Hot experts: those that real traffic asks for most. A GPU worker counts what its router chooses
// (RoutingCounts); from that and a memory budget comes a list of experts (HotExperts) that a GPU
// worker may hold and compute itself. Both are small JSON files that name the model they are of:
//
//   {"model_digest": "...", "rows": {"3": [17, 0, 4, ...], ...}}      counts of each expert, by
//   layer
//   {"model_digest": "...", "experts": {"3": [0, 2], ...}}            ids, by layer
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem {

struct RoutingCounts {
  std::string model_digest;
  std::map<uint32_t, std::vector<uint64_t>> rows;  // layer -> [experts] rows that chose it
};

struct HotExperts {
  std::string model_digest;
  std::set<std::pair<uint32_t, uint32_t>> experts;  // (layer, expert)
};

std::string RoutingCountsJson(const RoutingCounts& counts);
std::string HotExpertsJson(const HotExperts& hot);

// INVALID_ARGUMENT in one sentence where the text is not such a file; `name` begins it.
absl::StatusOr<RoutingCounts> ParseRoutingCounts(const std::string& text, const std::string& name);
absl::StatusOr<HotExperts> ParseHotExperts(const std::string& text, const std::string& name);

// The experts with the most rows per byte that fit in `budget_bytes`, none of which has no rows.
// `bytes_of` is what an expert takes in memory. Ties go to the lower layer, then the lower id, so
// the same counts give the same list.
HotExperts PickHotExperts(const RoutingCounts& counts, int64_t budget_bytes,
                          const std::function<int64_t(uint32_t layer, uint32_t expert)>& bytes_of);

}  // namespace tandem
