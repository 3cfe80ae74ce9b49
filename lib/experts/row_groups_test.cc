#include "lib/experts/row_groups.h"

#include <random>
#include <vector>

#include "gtest/gtest.h"

namespace tandem {
namespace {

TEST(RowGroups, EachPairOnceInOrder) {
  const std::vector<uint32_t> experts = {7, 2, 7, 7, 0, 2};
  const std::vector<ExpertGroup> groups = GroupByExpert(experts);
  ASSERT_EQ(groups.size(), 3u);
  EXPECT_EQ(groups[0].expert, 0u);
  EXPECT_EQ(groups[0].pairs, (std::vector<int64_t>{4}));
  EXPECT_EQ(groups[1].expert, 2u);
  EXPECT_EQ(groups[1].pairs, (std::vector<int64_t>{1, 5}));
  EXPECT_EQ(groups[2].pairs, (std::vector<int64_t>{0, 2, 3}));
  EXPECT_TRUE(GroupByExpert({}).empty());
}

TEST(RowGroups, PassesKeepOrderAndBound) {
  std::mt19937 random(1);
  for (int trial = 0; trial < 200; ++trial) {
    std::vector<uint32_t> experts(random() % 100);
    for (uint32_t& expert : experts) expert = random() % 9;
    const std::vector<ExpertGroup> groups = GroupByExpert(experts);
    const int64_t pairs_max = 1 + random() % 20;
    std::vector<std::pair<uint32_t, int64_t>> want, got;
    for (const ExpertGroup& group : groups) {
      for (int64_t pair : group.pairs) want.push_back({group.expert, pair});
    }
    for (const auto& pass : CutIntoPasses(groups, pairs_max)) {
      int64_t in_pass = 0;
      for (const ExpertGroup& group : pass) {
        EXPECT_FALSE(group.pairs.empty());
        in_pass += group.pairs.size();
        for (int64_t pair : group.pairs) got.push_back({group.expert, pair});
      }
      EXPECT_LE(in_pass, pairs_max);
    }
    EXPECT_EQ(got, want);
  }
}

}  // namespace
}  // namespace tandem
