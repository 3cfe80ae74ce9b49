#include "lib/experts/row_groups.h"

#include <algorithm>
#include <map>

#include "lib/base/check.h"

namespace tandem {

std::vector<ExpertGroup> GroupByExpert(std::span<const uint32_t> expert_of_pair) {
  std::map<uint32_t, std::vector<int64_t>> pairs_of_expert;
  for (size_t pair = 0; pair < expert_of_pair.size(); ++pair) {
    pairs_of_expert[expert_of_pair[pair]].push_back(static_cast<int64_t>(pair));
  }
  std::vector<ExpertGroup> groups;
  groups.reserve(pairs_of_expert.size());
  for (auto& [expert, pairs] : pairs_of_expert) groups.push_back({expert, std::move(pairs)});
  return groups;
}

std::vector<std::vector<ExpertGroup>> CutIntoPasses(std::span<const ExpertGroup> groups,
                                                    int64_t pairs_max) {
  TANDEM_CHECK_GE(pairs_max, 1);
  std::vector<std::vector<ExpertGroup>> passes;
  int64_t room = 0;
  for (const ExpertGroup& group : groups) {
    auto next = group.pairs.begin();
    while (next != group.pairs.end()) {
      if (room == 0) {
        passes.emplace_back();
        room = pairs_max;
      }
      const int64_t taken = std::min<int64_t>(room, group.pairs.end() - next);
      passes.back().push_back({group.expert, {next, next + taken}});
      next += taken;
      room -= taken;
    }
  }
  return passes;
}

}  // namespace tandem
