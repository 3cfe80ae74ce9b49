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
  return PagesOf(item.token_end - item.token_begin) + kItemPages + kMergePages * (item.parts - 1);
}

using ItemKey = std::tuple<int, int, int>;  // row, head group, first part

// Items by what they do; a slot of a block's own belongs to the block that has the item.
std::map<ItemKey, DecodeItem> ItemsByKey(const Reader& plan) {
  std::map<ItemKey, DecodeItem> items;
  std::map<int, int> block_of_slot;
  for (int block = 0; block < plan.blocks(); ++block) {
    EXPECT_LE(plan.range(block), plan.range(block + 1));
    for (int i = plan.range(block); i < plan.range(block + 1); ++i) {
      const DecodeItem item = plan.item(i);
      const ItemKey key(item.row, item.head_group, item.part);
      EXPECT_TRUE(items.emplace(key, item).second) << "twice: row " << item.row;
      if (item.parts > 1) {
        EXPECT_EQ(block_of_slot.emplace(item.slot, block).first->second, block);
      }
    }
  }
  return items;
}

// Every part of every row for every head group once, each with a slot that is nobody else's.
void ExpectItemsOfRows(const PlanCase& c, const Reader& plan) {
  const auto groups = static_cast<int>(HeadGroups(c.shape.heads));
  const std::map<ItemKey, DecodeItem> items = ItemsByKey(plan);
  size_t expected = 0;
  std::map<int, int> row_of_slot;
  for (int row = 0; row < static_cast<int>(c.lengths.size()); ++row) {
    const int parts = static_cast<int>(SplitsOf(c.lengths[row]));
    const bool whole = plan.row_slot(row) < 0;
    ASSERT_EQ(plan.row_parts(row), whole ? std::min(parts, 1) : parts);
    ASSERT_TRUE(whole || parts > 1);
    for (int group = 0; group < groups; ++group) {
      int token = 0;
      for (int part = 0; part < parts; part += whole ? parts : 1, ++expected) {
        const auto found = items.find({row, group, part});
        ASSERT_NE(found, items.end());
        const DecodeItem& item = found->second;
        ASSERT_EQ(item.parts, whole ? parts : 1);
        ASSERT_EQ(item.token_begin, token);
        ASSERT_EQ(item.token_begin, PartPages(c.lengths[row], part) * kPageTokens);
        ASSERT_GT(item.token_end, token);
        token = item.token_end;
        ASSERT_EQ(item.slot < 0, parts == 1);
        ASSERT_TRUE(whole || item.slot == plan.row_slot(row) + part);
        // A slot holds one part of one row, or is used by whole rows, one at a time.
        if (item.slot >= 0) {
          ASSERT_EQ(row_of_slot.emplace(item.slot, whole ? -1 : row).first->second,
                    whole ? -1 : row);
        }
      }
      ASSERT_EQ(token, c.lengths[row]);
    }
  }
  EXPECT_EQ(items.size(), expected);
  const size_t slot_bytes = SlotFloats(c.shape.heads, c.shape.latent) * sizeof(float);
  const size_t slot_end = row_of_slot.empty() ? 0 : row_of_slot.rbegin()->first + 1;
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
  ExpectItemsOfRows(c, plan);
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

// What a plan makes of a row: {whole, places of its parts}. The places never change.
std::pair<bool, std::set<std::pair<int, int>>> PlacesOf(const std::vector<int32_t>& lengths,
                                                        int row, int multiprocessors) {
  const Reader plan(PlanDecode(ShapeOf(128), lengths, 300, 50000, multiprocessors));
  std::pair<bool, std::set<std::pair<int, int>>> found;
  for (int i = 0; i < plan.range(multiprocessors); ++i) {
    const DecodeItem item = plan.item(i);
    if (item.row != row) continue;
    found.first = item.parts > 1;
    for (int part = 0; part < item.parts; ++part) {
      const auto begin = [&](int p) {
        return static_cast<int>(PartPage(PagesOf(item.token_end), item.parts, p) * kPageTokens);
      };
      if (item.parts == 1) {
        found.second.emplace(item.token_begin, item.token_end);
      } else {
        found.second.emplace(begin(part), std::min(begin(part + 1), item.token_end));
      }
    }
  }
  return found;
}

TEST(PlanDecode, PlacesDependOnTheLengthAlone) {
  for (const int length : {1, 64, 65, 1000, 8192, 50000}) {
    const auto alone = PlacesOf({length}, 0, 132);
    EXPECT_FALSE(alone.first);
    EXPECT_EQ(alone.second.size(), static_cast<size_t>(SplitsOf(length)));
    EXPECT_EQ(PlacesOf({7, 40000, length, 0, 3}, 2, 132).second, alone.second);
    const auto on_one = PlacesOf({50000, 50000, 50000, length}, 3, 1);
    EXPECT_EQ(on_one.first, SplitsOf(length) > 1);
    EXPECT_EQ(on_one.second, alone.second);
  }
}

// The block with the most work against an even share of the pages alone, 132 multiprocessors.
double Unevenness(int64_t heads, const std::vector<int32_t>& lengths) {
  const Reader plan(PlanDecode(ShapeOf(heads), lengths, 512, 32768, 132));
  double pages = 0;
  int64_t longest = 0;
  for (const int32_t length : lengths) pages += PagesOf(length) * HeadGroups(heads);
  for (int block = 0; block < 132; ++block) {
    int64_t load = 0;
    for (int i = plan.range(block); i < plan.range(block + 1); ++i) load += Cost(plan.item(i));
    longest = std::max(longest, load);
  }
  return static_cast<double>(longest) / (pages / 132);
}

// Overhead and imbalance together, on what the deal is for.
TEST(PlanDecode, LargeBatchesAreWithinAQuarterOfEven) {
  EXPECT_LE(Unevenness(128, std::vector<int32_t>(64, 8192)), 1.25);
  EXPECT_LE(Unevenness(16, std::vector<int32_t>(64, 8192)), 1.25);
  EXPECT_LE(Unevenness(16, std::vector<int32_t>(64, 32768)), 1.25);
  EXPECT_LE(Unevenness(16, std::vector<int32_t>(512, 8192)), 1.25);
  std::vector<int32_t> ragged;
  for (int row = 0; row < 256; ++row) ragged.push_back(400 + row * row % 8000);
  EXPECT_LE(Unevenness(128, ragged), 1.25);
}

// 512 rows of up to 160 k tokens at 128 heads.
TEST(PlanDecode, TheWorkspaceIsBounded) {
  EXPECT_LT(DecodeWorkspaceBytes(ShapeOf(128), 512, 163840, 132), size_t{600} << 20);
  EXPECT_LT(DecodePlanBytes(ShapeOf(128), 512, 163840, 132), size_t{256} << 10);
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
