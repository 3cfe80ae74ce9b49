#include "gpu_worker/backend/cuda/kernels/attention/decode_plan.h"

#include <algorithm>
#include <limits>
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

int64_t ItemsMax(const MlaShape& shape, int64_t rows_max, int64_t tokens_max) {
  return rows_max * SplitsOf(tokens_max) * HeadGroups(shape.heads);
}

int64_t CostOf(const DecodeItem& item) {
  return PagesOf(item.token_end) - item.token_begin / kPageTokens + kItemOverheadPages;
}

// All items in the order of rows, parts and head groups; the rows' words are filled in.
std::vector<DecodeItem> ItemsOf(const MlaShape& shape, std::span<const int32_t> lengths,
                                int32_t* row_words) {
  std::vector<DecodeItem> items;
  const auto groups = static_cast<int32_t>(HeadGroups(shape.heads));
  int32_t slots = 0;
  for (size_t row = 0; row < lengths.size(); ++row) {
    const int32_t length = lengths[row], parts = static_cast<int32_t>(SplitsOf(length));
    row_words[2 * row] = parts > 1 ? slots : -1;
    row_words[2 * row + 1] = parts;
    for (int32_t part = 0; part < parts; ++part) {
      const auto begin = static_cast<int32_t>(PartPages(length, part) * kPageTokens);
      const auto end = static_cast<int32_t>(PartPages(length, part + 1) * kPageTokens);
      for (int32_t group = 0; group < groups; ++group) {
        items.push_back({static_cast<int32_t>(row),
                         group,
                         part,
                         parts > 1 ? slots + part : -1,
                         begin,
                         std::min(end, length),
                         {}});
      }
    }
    if (parts > 1) slots += parts;
  }
  return items;
}

// The block of each item, longest first to the least laden.
std::vector<int32_t> Deal(const std::vector<DecodeItem>& items, std::vector<int32_t>& order,
                          int blocks) {
  order.resize(items.size());
  for (size_t i = 0; i < items.size(); ++i) order[i] = static_cast<int32_t>(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return CostOf(items[a]) > CostOf(items[b]); });
  using Load = std::pair<int64_t, int32_t>;  // pages, block
  std::priority_queue<Load, std::vector<Load>, std::greater<>> loads;
  for (int32_t block = 0; block < blocks; ++block) loads.emplace(0, block);
  std::vector<int32_t> dealt(items.size());
  for (const int32_t i : order) {
    const auto [load, block] = loads.top();
    loads.pop();
    dealt[i] = block;
    loads.emplace(load + CostOf(items[i]), block);
  }
  return dealt;
}

}  // namespace

int64_t SplitsOf(int64_t length) {
  const int64_t pages = PagesOf(length);
  int64_t parts = 0;
  while (parts * parts < pages) ++parts;
  return parts;
}

int64_t PartPages(int64_t length, int64_t part) {
  return part == 0 ? 0 : PagesOf(length) * part / SplitsOf(length);
}

size_t DecodePlanBytes(const MlaShape& shape, int64_t rows_max, int64_t tokens_max,
                       int multiprocessors) {
  const int64_t words =
      ItemsWord(rows_max, multiprocessors) + ItemsMax(shape, rows_max, tokens_max) * kPlanItemWords;
  return static_cast<size_t>(words) * sizeof(int32_t);
}

size_t DecodeWorkspaceBytes(const MlaShape& shape, int64_t rows_max, int64_t tokens_max,
                            int multiprocessors) {
  const int64_t parts = SplitsOf(tokens_max);
  if (parts <= 1) return 0;
  return static_cast<size_t>(rows_max * parts * SlotFloats(shape.heads, shape.latent)) *
         sizeof(float);
}

DecodePlan PlanDecode(const MlaShape& shape, std::span<const int32_t> lengths, int64_t rows_max,
                      int64_t tokens_max, int multiprocessors) {
  TANDEM_CHECK_GE(multiprocessors, 1);
  TANDEM_CHECK_LE(SplitsOf(tokens_max), kPartsMax);
  TANDEM_CHECK_LE(static_cast<int64_t>(lengths.size()), rows_max);
  const int64_t words =
      static_cast<int64_t>(DecodePlanBytes(shape, rows_max, tokens_max, multiprocessors)) / 4;
  TANDEM_CHECK_LE(words, std::numeric_limits<int32_t>::max());
  for (const int32_t length : lengths) TANDEM_CHECK(length >= 0 && length <= tokens_max);

  DecodePlan plan;
  plan.words.assign(words, -1);
  const int64_t items_word = ItemsWord(rows_max, multiprocessors);
  plan.words[kPlanItems] = static_cast<int32_t>(items_word);
  plan.words[kPlanBlocks] = multiprocessors;
  plan.words[kPlanRows] = static_cast<int32_t>(rows_max);
  int32_t* const ranges = plan.words.data() + kPlanHeaderWords;
  int32_t* const row_words = ranges + multiprocessors + 1;
  for (int64_t row = 0; row < rows_max; ++row) row_words[2 * row + 1] = 0;

  const std::vector<DecodeItem> items = ItemsOf(shape, lengths, row_words);
  std::vector<int32_t> order;
  const std::vector<int32_t> dealt = Deal(items, order, multiprocessors);
  std::fill_n(ranges, multiprocessors + 1, 0);
  for (const int32_t block : dealt) ++ranges[block + 1];
  for (int block = 0; block < multiprocessors; ++block) ranges[block + 1] += ranges[block];
  std::vector<int32_t> next(ranges, ranges + multiprocessors);
  auto* const placed = reinterpret_cast<DecodeItem*>(plan.words.data() + items_word);
  for (const int32_t i : order) placed[next[dealt[i]]++] = items[i];
  plan.words_used = items_word + static_cast<int64_t>(items.size()) * kPlanItemWords;
  return plan;
}

}  // namespace tandem::gpu_worker::cuda
