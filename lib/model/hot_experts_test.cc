#include "lib/model/hot_experts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace tandem {
namespace {

using testing::HasSubstr;

constexpr int64_t Bytes(uint32_t, uint32_t) { return 10; }

TEST(HotExpertsTest, FilesComeBackAsTheyWere) {
  const RoutingCounts counts = {"abc", {{1, {5, 0, 7}}, {12, {1, 2, 3}}}};
  const auto counts_back = ParseRoutingCounts(RoutingCountsJson(counts), "counts");
  ASSERT_TRUE(counts_back.ok()) << counts_back.status();
  EXPECT_EQ(counts_back->model_digest, "abc");
  EXPECT_EQ(counts_back->rows, counts.rows);
  const HotExperts hot = {"abc", {{1, 2}, {1, 0}, {12, 1}}};
  const auto hot_back = ParseHotExperts(HotExpertsJson(hot), "list");
  ASSERT_TRUE(hot_back.ok()) << hot_back.status();
  EXPECT_EQ(hot_back->experts, hot.experts);
}

TEST(HotExpertsTest, BrokenFilesAreRefusedInOneSentence) {
  const std::pair<const char*, const char*> cases[] = {
      {"", "a JSON object"},
      {"[1]", "a JSON object"},
      {R"({"experts": {}})", "model_digest"},
      {R"({"model_digest": "a"})", "an object experts"},
      {R"({"model_digest": "a", "experts": {"x": [1]}})", "layer numbers"},
      {R"({"model_digest": "a", "experts": {"4000000000": [1]}})", "layer numbers"},
      {R"({"model_digest": "a", "experts": {"1": 3}})", "a list of numbers"},
      {R"({"model_digest": "a", "experts": {"1": [-1]}})", "a list of numbers"},
      {R"({"model_digest": "a", "experts": {"1": [70000]}})", "expert numbers"}};
  for (const auto& [text, words] : cases) {
    const auto hot = ParseHotExperts(text, "list.json");
    ASSERT_FALSE(hot.ok()) << text;
    EXPECT_THAT(std::string(hot.status().message()), HasSubstr(words)) << text;
    EXPECT_THAT(std::string(hot.status().message()), HasSubstr("list.json")) << text;
  }
}

TEST(HotExpertsTest, TheMostAskedForFitTheBudget) {
  const RoutingCounts counts = {"abc", {{1, {5, 0, 7, 5}}, {2, {6, 1, 5, 0}}}};
  EXPECT_EQ(PickHotExperts(counts, 30, Bytes).experts,
            (std::set<std::pair<uint32_t, uint32_t>>{{1, 2}, {2, 0}, {1, 0}}));
  EXPECT_TRUE(PickHotExperts(counts, 9, Bytes).experts.empty());
  // Nobody asked for two of the eight.
  EXPECT_EQ(PickHotExperts(counts, 1000, Bytes).experts.size(), 6u);
}

TEST(HotExpertsTest, RowsCountByTheByte) {
  const RoutingCounts counts = {"abc", {{1, {10, 6}}}};
  const auto bytes = [](uint32_t, uint32_t expert) -> int64_t { return expert == 0 ? 20 : 10; };
  EXPECT_EQ(PickHotExperts(counts, 20, bytes).experts,
            (std::set<std::pair<uint32_t, uint32_t>>{{1, 1}}));
}

}  // namespace
}  // namespace tandem
