// Every (row, head group, part) is done exactly once, by whom and in what balance.
#include "gpu_worker/backend/cuda/kernels/attention/decode_plan.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <random>
#include <set>
#include <tuple>

namespace tandem::gpu_worker::cuda {
namespace {

int64_t PagesOf(int64_t length) { return (length + kPageTokens - 1) / kPageTokens; }

// A plan as a kernel reads it.
struct Reader {
  explicit Reader(const DecodePlan& plan) : words(plan.words) {}
  int blocks() const { return words[kPlanBlocks]; }
  int range(int block) const { return words[kPlanHeaderWords + block]; }
  int row_slot(int row) const { return words[kPlanHeaderWords + blocks() + 1 + 2 * row]; }
  int row_parts(int row) const { return words[kPlanHeaderWords + blocks() + 2 + 2 * row]; }
  DecodeItem item(int i) const {
    DecodeItem item;
    std::memcpy(&item, words.data() + words[kPlanItems] + i * kPlanItemWords, sizeof(item));
    return item;
  }
  int items_max() const {
    return (static_cast<int>(words.size()) - words[kPlanItems]) / kPlanItemWords;
  }
  std::vector<int32_t> words;
};

struct PlanCase {
  MlaShape shape;
  std::vector<int32_t> lengths;
  int64_t rows_max = 0, tokens_max = 0;
  int multiprocessors = 1;
};

int64_t Cost(const DecodeItem& item) {
  return PagesOf(item.token_end - item.token_begin) + kItemOverheadPages;
}

void ExpectItemsOfRows(const PlanCase& c, const Reader& plan, int items) {
  const auto groups = static_cast<int>(HeadGroups(c.shape.heads));
  std::map<std::tuple<int, int, int>, DecodeItem> seen;
  for (int i = 0; i < items; ++i) {
    const DecodeItem item = plan.item(i);
    const auto key = std::make_tuple(item.row, item.head_group, item.part);
    EXPECT_TRUE(seen.emplace(key, item).second) << "twice: row " << item.row;
  }
  size_t expected = 0;
  std::set<int> slots;
  for (int row = 0; row < static_cast<int>(c.lengths.size()); ++row) {
    const int parts = static_cast<int>(SplitsOf(c.lengths[row]));
    expected += parts * groups;
    ASSERT_EQ(plan.row_parts(row), parts);
    for (int group = 0; group < groups; ++group) {
      int token = 0;
      for (int part = 0; part < parts; ++part) {
        const auto found = seen.find({row, group, part});
        ASSERT_NE(found, seen.end());
        EXPECT_EQ(found->second.token_begin, token);
        EXPECT_EQ(token % kPageTokens, 0);
        EXPECT_GT(found->second.token_end, token);
        token = found->second.token_end;
        EXPECT_EQ(found->second.slot, parts == 1 ? -1 : plan.row_slot(row) + part);
        if (parts > 1 && group == 0) {
          EXPECT_TRUE(slots.insert(found->second.slot).second);
        }
      }
      EXPECT_EQ(token, c.lengths[row]);
    }
  }
  EXPECT_EQ(seen.size(), expected);
  const size_t slot_bytes = SlotFloats(c.shape.heads, c.shape.latent) * sizeof(float);
  const size_t slot_end = slots.empty() ? 0 : *slots.rbegin() + 1;
  EXPECT_LE(slot_end * slot_bytes,
            DecodeWorkspaceBytes(c.shape, c.rows_max, c.tokens_max, c.multiprocessors));
}

// No block has more than the average and one item.
void ExpectBalance(const Reader& plan) {
  int64_t total = 0, longest = 0, heaviest = 0;
  for (int block = 0; block < plan.blocks(); ++block) {
    int64_t load = 0;
    ASSERT_LE(plan.range(block), plan.range(block + 1));
    for (int i = plan.range(block); i < plan.range(block + 1); ++i) {
      load += Cost(plan.item(i));
      longest = std::max(longest, Cost(plan.item(i)));
    }
    total += load;
    heaviest = std::max(heaviest, load);
  }
  EXPECT_LE(heaviest * plan.blocks(), total + longest * plan.blocks());
}

void ExpectGoodPlan(const PlanCase& c) {
  const DecodePlan made =
      PlanDecode(c.shape, c.lengths, c.rows_max, c.tokens_max, c.multiprocessors);
  const Reader plan(made);
  EXPECT_EQ(made.words.size() * sizeof(int32_t),
            DecodePlanBytes(c.shape, c.rows_max, c.tokens_max, c.multiprocessors));
  ASSERT_EQ(plan.blocks(), c.multiprocessors);
  EXPECT_EQ(plan.words[kPlanRows], c.rows_max);
  EXPECT_EQ(plan.words[kPlanItems] % kPlanItemWords, 0);
  EXPECT_EQ(plan.range(0), 0);
  const int items = plan.range(c.multiprocessors);
  ExpectItemsOfRows(c, plan, items);
  ExpectBalance(plan);
  EXPECT_EQ(made.words_used, plan.words[kPlanItems] + int64_t{items} * kPlanItemWords);
  for (int i = items; i < plan.items_max(); ++i) EXPECT_EQ(plan.item(i).row, -1);
  for (auto row = static_cast<int>(c.lengths.size()); row < c.rows_max; ++row) {
    EXPECT_EQ(plan.row_parts(row), 0);
  }
}

MlaShape ShapeOf(int64_t heads) { return {.heads = heads, .latent = 512, .rope = 64}; }

TEST(SplitsOf, IsTheRootOfThePages) {
  const std::pair<int64_t, int64_t> known[] = {{0, 0},      {1, 1},       {64, 1},       {65, 2},
                                               {256, 2},    {257, 3},     {1024, 4},     {8192, 12},
                                               {32768, 23}, {131072, 46}, {1 << 20, 128}};
  for (const auto& [length, parts] : known) EXPECT_EQ(SplitsOf(length), parts) << length;
}

TEST(SplitsOf, PartsCoverThePagesEvenly) {
  for (int64_t length = 1; length < 40000; length += length < 1000 ? 1 : 61) {
    const int64_t parts = SplitsOf(length), pages = PagesOf(length);
    ASSERT_EQ(PartPages(length, 0), 0);
    ASSERT_EQ(PartPages(length, parts), pages);
    for (int64_t part = 0; part < parts; ++part) {
      const int64_t size = PartPages(length, part + 1) - PartPages(length, part);
      ASSERT_GE(size, pages / parts);
      ASSERT_LE(size, pages / parts + 1);
    }
  }
}

TEST(PlanDecode, NoRows) { ExpectGoodPlan({ShapeOf(16), {}, 0, 0, 132}); }
TEST(PlanDecode, OnlyPadding) { ExpectGoodPlan({ShapeOf(16), {}, 8, 4096, 132}); }
TEST(PlanDecode, RowsWithoutKeys) { ExpectGoodPlan({ShapeOf(128), {0, 0, 0}, 3, 4096, 132}); }
TEST(PlanDecode, OneLongRow) {
  ExpectGoodPlan({ShapeOf(128), {32768}, 1, 32768, 132});
  ExpectGoodPlan({ShapeOf(128), {32768}, 1, 32768, 1});
}
TEST(PlanDecode, AMillionTokens) { ExpectGoodPlan({ShapeOf(16), {1 << 20}, 2, 1 << 20, 132}); }

TEST(PlanDecode, Fuzz) {
  std::mt19937 random(7);
  const int64_t heads[] = {1, 3, 8, 16, 17, 20, 32, 64, 65, 128};
  const int multiprocessors[] = {1, 2, 7, 108, 132};
  for (int i = 0; i < 400; ++i) {
    PlanCase c;
    c.shape = ShapeOf(heads[random() % std::size(heads)]);
    c.multiprocessors = multiprocessors[random() % std::size(multiprocessors)];
    c.tokens_max = random() % (i % 10 == 0 ? 60000 : 3000);
    c.rows_max = random() % 70;
    const size_t rows = random() % (c.rows_max + 1);
    for (size_t r = 0; r < rows; ++r) {
      const auto length = static_cast<int32_t>(random() % (c.tokens_max + 1));
      c.lengths.push_back(random() % 5 == 0 ? 0 : length);
    }
    ExpectGoodPlan(c);
    if (HasFailure()) FAIL() << "case " << i;
  }
}

// A row's items have the same places whatever is beside it and however many blocks there are.
TEST(PlanDecode, PlacesDependOnTheLengthAlone) {
  const auto places = [](const std::vector<int32_t>& lengths, int row, int multiprocessors) {
    const Reader plan(PlanDecode(ShapeOf(128), lengths, 9, 50000, multiprocessors));
    std::set<std::tuple<int, int, int, int>> found;
    for (int i = 0; i < plan.range(multiprocessors); ++i) {
      const DecodeItem item = plan.item(i);
      if (item.row == row)
        found.emplace(item.head_group, item.part, item.token_begin, item.token_end);
    }
    return found;
  };
  for (const int length : {1, 64, 65, 1000, 8192, 50000}) {
    const auto alone = places({length}, 0, 132);
    EXPECT_EQ(places({7, 40000, length, 0, 3}, 2, 132), alone);
    EXPECT_EQ(places({50000, 50000, 50000, length}, 3, 1), alone);
  }
}

// The greedy deal on what it is for: a batch of equal rows fills an H100 evenly.
TEST(PlanDecode, SixtyFourEqualRowsAreWithinATenthOfEven) {
  const std::vector<int32_t> lengths(64, 8192);
  const Reader plan(PlanDecode(ShapeOf(16), lengths, 64, 8192, 132));
  int64_t total = 0, heaviest = 0;
  for (int block = 0; block < 132; ++block) {
    int64_t load = 0;
    for (int i = plan.range(block); i < plan.range(block + 1); ++i) load += Cost(plan.item(i));
    total += load;
    heaviest = std::max(heaviest, load);
  }
  EXPECT_LE(heaviest * 132, total * 1.1);
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
