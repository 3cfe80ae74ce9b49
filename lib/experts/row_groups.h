// Rows by expert: a request lists, row by row, which experts it wants; a pass over weights needs,
// expert by expert, the rows that want it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tandem {

// All (row, expert) pairs of one expert, in the order of the rows. A pair's index is its place in
// the request's flat expert list.
struct ExpertGroup {
  uint32_t expert = 0;
  std::vector<int64_t> pairs;
};

// `expert_of_pair` [pairs]: the flat list of a request. Groups come in ascending order of expert;
// each pair is in exactly one.
std::vector<ExpertGroup> GroupByExpert(std::span<const uint32_t> expert_of_pair);

// Cuts groups into passes of at most `pairs_max` pairs (at least 1), splitting a group that is
// larger than what is left of a pass. Concatenated the passes hold every pair once, in the order of
// `groups`.
std::vector<std::vector<ExpertGroup>> CutIntoPasses(std::span<const ExpertGroup> groups,
                                                    int64_t pairs_max);

}  // namespace tandem
