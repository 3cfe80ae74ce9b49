// How the work of one decode step is cut and dealt, as host and kernels see it.
//
// Cutting. A row of P pages is cut into S = ceil(sqrt(P)) parts of about as many pages each; a
// part's softmax starts anew, and parts are merged from left to right (MergeFactors). S must do for
// every batch, because it may depend on the length alone. Figures for an H200 (4.3 TB/s, 132
// multiprocessors) and DeepSeek-V3 (a page is 73.7 kB, the partial result of 64 heads 131 kB):
//   - One row alone is a matter of latency: a thread block takes t = 1 us (16 heads, limited by the
//     bytes that one multiprocessor has in flight) to 3 us (64 heads, limited by its shared memory)
//     a page, all parts run side by side, so a layer costs t P / S.
//   - Many rows are a matter of throughput: each part more costs c = 1 to 4 us a layer at 64 rows.
//     16 heads: 33 kB written and read at 4.3 TB/s are 0.015 us a row. 128 heads: every
//     multiprocessor has about one row of 64 heads and merges in place, 262 kB through L2 at 64 B a
//     clock are 2.3 us.
// Of equal weight, t P / S + c S is least at S = sqrt(t P / c), which is close to sqrt(P) for both.
// So 8192 keys (128 pages) are 12 parts of 11 pages: some 11 us at 16 heads alone, instead of 128.
//
// Dealing. The parts of a row for one group of heads either are an item each, whose partial results
// the combine kernel merges, or one item together, whose thread block merges as it goes. The bits
// are the same. The first spreads a few rows over all multiprocessors; the second keeps partial
// results of large batches out of device memory, and bounds the workspace. Items are dealt longest
// first to the thread block with the least work so far (ties: the lowest), so that no block has
// more than the average and one item; of both ways that with the shorter longest block is taken.
// Items of one part for several head groups are neighbours in the order, so they run at about the
// same time and read the cache from device memory once.
#pragma once

#include <cstdint>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/kernels/attention/attention.h"

namespace tandem::gpu_worker::cuda {

// Words of a plan: header, block ranges, rows, items.
//   header [kPlanHeaderWords]: kPlanItems: word where the items begin; kPlanBlocks: thread blocks;
//     kPlanRows: rows_max
//   block ranges [blocks + 1]: block b does items [range[b], range[b + 1])
//   rows [rows_max][2]: slot of the row's first part, parts to be merged: 0 for a row without keys,
//     1 for one whose result an item writes itself
//   items [items_max]: DecodeItem; those behind the last range have row -1
inline constexpr int kPlanHeaderWords = 4;
inline constexpr int kPlanItems = 0, kPlanBlocks = 1, kPlanRows = 2;

// Keys [token_begin, token_end) of row `row`, for the heads of one group.
//   parts = 1, slot -1: the row's only part; the result goes to `out`.
//   parts = 1, slot >= 0: part `part` of several; the partial result goes to the slot.
//   parts > 1: all parts of the row, part i beginning at page PartPage(pages, parts, i); each but
//     the last leaves what it has merged in the slot, which is the thread block's own.
struct DecodeItem {
  int32_t row, head_group, part, parts, slot, token_begin, token_end, unused;
};
inline constexpr int kPlanItemWords = sizeof(DecodeItem) / sizeof(int32_t);

constexpr int64_t PartPage(int64_t pages, int64_t parts, int64_t part) {
  return pages * part / parts;
}

// Heads that one thread block does at once: all up to 64, in tiles of 16. 64 rows of queries are
// what shared memory has room for beside two tiles of keys (A100: 163 KiB).
inline constexpr int kHeadTile = 16;
inline constexpr int kHeadGroupMax = 64;
constexpr int HeadGroup(int64_t heads) {
  int group = kHeadTile;
  while (group < heads && group < kHeadGroupMax) group *= 2;
  return group;
}
constexpr int64_t HeadGroups(int64_t heads) {
  return (heads + HeadGroup(heads) - 1) / HeadGroup(heads);
}
// The same for a rank's share of a model's heads: groups as large as the model's.
constexpr int HeadGroup(const MlaShape& shape) {
  return HeadGroup(shape.whole_heads > shape.heads ? shape.whole_heads : shape.heads);
}
constexpr int64_t HeadGroups(const MlaShape& shape) {
  return (shape.heads + HeadGroup(shape) - 1) / HeadGroup(shape);
}

// Parts of the longest row that a plan takes: 128^2 pages are 2^20 tokens.
inline constexpr int64_t kPartsMax = 128;

// Slots for parts that are items of their own, for each multiprocessor; rows that find no room are
// one item. As many rows as multiprocessors have room up to 16^2 pages each. Beyond that there are
// more rows, which are as even a load when they are whole, or 2 M tokens, more than an H200 caches
// of DeepSeek-V3.
inline constexpr int64_t kSlotsPerMultiprocessor = 16;

// What an item costs beside its pages, in pages: its queries and results are 64 (1152 + 2052) bytes
// or 2.8 pages' traffic for 64 heads, 0.7 and as much again in latency for 16. What merging costs:
// a part in the combine kernel, read from device memory by all multiprocessors together; a part in
// place.
inline constexpr int64_t kItemPages = 2, kCombinePages = 2, kMergePages = 1;

// Slot s is at s * SlotFloats floats of the workspace: [heads, latent] f32 sums of 2^(score - max)
// value, [heads] max, [heads] sum of 2^(score - max). Scores are times log2(e).
constexpr int64_t SlotFloats(int64_t heads, int64_t latent) {
  return (heads * (latent + 2) + 3) / 4 * 4;
}

inline constexpr float kLn2 = 0.693147180559945309f;

}  // namespace tandem::gpu_worker::cuda
