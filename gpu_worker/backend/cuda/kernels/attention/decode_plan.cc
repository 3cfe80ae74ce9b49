#include "gpu_worker/backend/cuda/kernels/attention/decode_plan.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <queue>
#include <utility>
#include <vector>

#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

int64_t PagesOf(int64_t length) { return (length + kPageTokens - 1) / kPageTokens; }

int64_t ItemsWord(int64_t rows_max, int multiprocessors) {
  const int64_t words = kPlanHeaderWords + multiprocessors + 1 + 2 * rows_max;
  return (words + kPlanItemWords - 1) / kPlanItemWords * kPlanItemWords;  // items are aligned
}

// Slots of parts that are items of their own.
int64_t PartSlots(int64_t rows_max, int64_t tokens_max, int multiprocessors) {
  return std::min(rows_max * SplitsOf(tokens_max), kSlotsPerMultiprocessor * multiprocessors);
}

int64_t ItemsMax(const MlaShape& shape, int64_t rows_max, int64_t tokens_max, int multiprocessors) {
  return (rows_max + PartSlots(rows_max, tokens_max, multiprocessors)) * HeadGroups(shape);
}

int64_t CostOf(const DecodeItem& item) {
  return PagesOf(item.token_end) - item.token_begin / kPageTokens + kItemPages +
         kMergePages * (item.parts - 1);
}

// Items in the order of rows, parts and head groups, and who does them.
struct Deal {
  std::vector<DecodeItem> items;
  std::vector<int32_t> row_slots;  // -1: the row is one item
  int64_t slots = 0;
  std::vector<int32_t> order;   // of items: longest first
  std::vector<int32_t> blocks;  // of each item
  int64_t longest = 0;          // pages of the block with the most, and of the merging behind it
};

// Slots for the longest rows, as far as `slots` go; rows of one part need none.
void GiveSlots(std::span<const int32_t> lengths, int64_t slots, Deal& deal) {
  std::vector<int32_t> rows(lengths.size());
  std::iota(rows.begin(), rows.end(), 0);
  std::stable_sort(rows.begin(), rows.end(),
                   [&](int32_t a, int32_t b) { return lengths[a] > lengths[b]; });
  deal.row_slots.assign(lengths.size(), -1);
  for (const int32_t row : rows) {
    const int64_t parts = SplitsOf(lengths[row]);
    if (parts <= 1 || deal.slots + parts > slots) break;
    deal.row_slots[row] = static_cast<int32_t>(deal.slots);
    deal.slots += parts;
  }
}

void AddItems(int32_t row, int32_t length, int32_t groups, Deal& deal) {
  const auto parts = static_cast<int32_t>(SplitsOf(length));
  const int32_t slot = deal.row_slots[row];
  if (slot < 0) {  // one item; its slot, if it has parts, is its block's
    for (int32_t group = 0; group < groups && parts > 0; ++group) {
      deal.items.push_back({row, group, 0, parts, -1, 0, length, 0});
    }
    return;
  }
  for (int32_t part = 0; part < parts; ++part) {
    const auto begin = static_cast<int32_t>(PartPages(length, part) * kPageTokens);
    const auto end = static_cast<int32_t>(PartPages(length, part + 1) * kPageTokens);
    for (int32_t group = 0; group < groups; ++group) {
      deal.items.push_back({row, group, part, 1, slot + part, begin, std::min(end, length), 0});
    }
  }
}

// The block of each item: longest first to the least laden.
void DealItems(int blocks, Deal& deal) {
  deal.order.resize(deal.items.size());
  std::iota(deal.order.begin(), deal.order.end(), 0);
  std::stable_sort(deal.order.begin(), deal.order.end(), [&](int32_t a, int32_t b) {
    return CostOf(deal.items[a]) > CostOf(deal.items[b]);
  });
  using Load = std::pair<int64_t, int32_t>;  // pages, block
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (int32_t block = 0; block < blocks; ++block) loads.emplace(0, block);
  deal.blocks.resize(deal.items.size());
  for (const int32_t i : deal.order) {
    const auto [load, block] = loads.top();
    loads.pop();
    deal.blocks[i] = block;
    loads.emplace(load + CostOf(deal.items[i]), block);
    deal.longest = std::max(deal.longest, load + CostOf(deal.items[i]));
  }
}

Deal DealWithSlots(const MlaShape& shape, std::span<const int32_t> lengths, int64_t slots,
                   int multiprocessors) {
  Deal deal;
  const auto groups = static_cast<int32_t>(HeadGroups(shape));
  GiveSlots(lengths, slots, deal);
  for (size_t row = 0; row < lengths.size(); ++row) {
    AddItems(static_cast<int32_t>(row), lengths[row], groups, deal);
  }
  DealItems(multiprocessors, deal);
  deal.longest += kCombinePages * deal.slots * groups / multiprocessors;
  return deal;
}

// Items behind each other by block, their ranges, and slots for those that merge in place.
void Place(const Deal& deal, int64_t block_slots_begin, int blocks, int32_t* ranges,
           DecodeItem* placed) {
  std::fill_n(ranges, blocks + 1, 0);
  for (const int32_t block : deal.blocks) ++ranges[block + 1];
  for (int block = 0; block < blocks; ++block) ranges[block + 1] += ranges[block];
  std::vector<int32_t> next(ranges, ranges + blocks);
  for (const int32_t i : deal.order) {
    DecodeItem& item = placed[next[deal.blocks[i]]++];
    item = deal.items[i];
    if (item.parts > 1) item.slot = static_cast<int32_t>(block_slots_begin + deal.blocks[i]);
  }
}

}  // namespace

int64_t SplitsOf(int64_t length) {
  const int64_t pages = PagesOf(length);
  int64_t parts = 0;
  while (parts * parts < pages) ++parts;
  return parts;
}

int64_t PartPages(int64_t length, int64_t part) {
  return part == 0 ? 0 : PartPage(PagesOf(length), SplitsOf(length), part);
}

size_t DecodePlanBytes(const MlaShape& shape, int64_t rows_max, int64_t tokens_max,
                       int multiprocessors) {
  const int64_t words = ItemsWord(rows_max, multiprocessors) +
                        ItemsMax(shape, rows_max, tokens_max, multiprocessors) * kPlanItemWords;
  return static_cast<size_t>(words) * sizeof(int32_t);
}

size_t DecodeWorkspaceBytes(const MlaShape& shape, int64_t rows_max, int64_t tokens_max,
                            int multiprocessors) {
  if (rows_max == 0 || SplitsOf(tokens_max) <= 1) return 0;
  const int64_t slots = PartSlots(rows_max, tokens_max, multiprocessors) + multiprocessors;
  return static_cast<size_t>(slots * SlotFloats(shape.heads, shape.latent)) * sizeof(float);
}

DecodePlan PlanDecode(const MlaShape& shape, std::span<const int32_t> lengths, int64_t rows_max,
                      int64_t tokens_max, int multiprocessors) {
  TANDEM_CHECK_GE(multiprocessors, 1);
  TANDEM_CHECK_LE(SplitsOf(tokens_max), kPartsMax);
  TANDEM_CHECK_LE(static_cast<int64_t>(lengths.size()), rows_max);
  const size_t words = DecodePlanBytes(shape, rows_max, tokens_max, multiprocessors) / 4;
  TANDEM_CHECK_LE(words, size_t{std::numeric_limits<int32_t>::max()});
  for (const int32_t length : lengths) TANDEM_CHECK(length >= 0 && length <= tokens_max);

  const int64_t part_slots = PartSlots(rows_max, tokens_max, multiprocessors);
  const Deal in_parts = DealWithSlots(shape, lengths, part_slots, multiprocessors);
  const Deal whole = DealWithSlots(shape, lengths, 0, multiprocessors);
  const Deal& deal = whole.longest <= in_parts.longest ? whole : in_parts;

  DecodePlan plan;
  plan.words.assign(words, -1);
  const int64_t items_word = ItemsWord(rows_max, multiprocessors);
  plan.words[kPlanItems] = static_cast<int32_t>(items_word);
  plan.words[kPlanBlocks] = multiprocessors;
  plan.words[kPlanRows] = static_cast<int32_t>(rows_max);
  int32_t* const ranges = plan.words.data() + kPlanHeaderWords;
  int32_t* const row_words = ranges + multiprocessors + 1;
  for (int64_t row = 0; row < rows_max; ++row) {
    const bool has_keys = row < static_cast<int64_t>(lengths.size()) && lengths[row] > 0;
    const int32_t slot = has_keys ? deal.row_slots[row] : -1;
    row_words[2 * row] = slot;
    row_words[2 * row + 1] =
        slot < 0 ? int32_t{has_keys} : static_cast<int32_t>(SplitsOf(lengths[row]));
  }
  Place(deal, part_slots, multiprocessors, ranges,
        reinterpret_cast<DecodeItem*>(plan.words.data() + items_word));
  plan.words_used = items_word + static_cast<int64_t>(deal.items.size()) * kPlanItemWords;
  return plan;
}

}  // namespace tandem::gpu_worker::cuda
