// How the work of one decode step is cut and dealt, as host and kernels see it.
//
// Cutting. A row of P pages is cut into S = ceil(sqrt(P)) parts of about as many pages each. S is a
// compromise that must hold for every batch, because it may depend on the length alone. Figures for
// an H200 (4.3 TB/s, 132 multiprocessors) and DeepSeek-V3 (a page is 73.7 kB; a head's partial
// result 2 kB written and 2 kB read again):
//   - One row alone is a matter of latency: a thread block takes t = 1 us (16 heads, limited by the
//     bytes that one multiprocessor has in flight) to 2 us (64 heads, limited by its tensor cores)
//     a page, all parts run side by side, so a layer costs t P / S.
//   - Many rows are a matter of throughput: each part adds its partial results to the traffic, at
//     16 heads 0.015 us a row, at 128 heads 0.12 us. With 64 rows a layer costs 1.0 S (16 heads) to
//     7.8 S us (128 heads) more; half of it is hidden at 128 heads, where tensor cores are the
//     limit while partial results are written: 3.9 S.
// Of equal weight, t P / S + c S is least at S = sqrt(t P / c): sqrt(P) for 16 heads, sqrt(P / 2)
// for 128. With S = ceil(sqrt(P)), 8192 keys (128 pages) are 12 parts of 11 pages: alone some 11 us
// instead of 128, and in a batch of 64 at 128 heads some 20 % above the floor of 185 us.
//
// Dealing. Every (row, part, head group) is an item; items are dealt longest first to the thread
// block with the least work so far (ties: the lowest block), so no block has more than the average
// and one item. Items are atomic and their results do not depend on the block, which is why the
// number of multiprocessors does not change a bit. Items of one part for several head groups are
// neighbours in the order, so they run at about the same time and read the cache through L2 once.
#pragma once

#include <cstdint>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/kernels/attention/attention.h"

namespace tandem::gpu_worker::cuda {

// Words of a plan: header, block ranges, rows, items.
//   header [kPlanHeaderWords]: kPlanItems: word where the items begin; kPlanBlocks: thread blocks;
//     kPlanRows: rows_max
//   block ranges [blocks + 1]: block b does items [range[b], range[b + 1])
//   rows [rows_max][2]: slot of the row's first part (-1: written to `out` at once), parts
//   items [items_max]: DecodeItem; those behind the last range have row -1
inline constexpr int kPlanHeaderWords = 4;
inline constexpr int kPlanItems = 0, kPlanBlocks = 1, kPlanRows = 2;

// Part `part` of row `row` for the heads of one group: keys [token_begin, token_end). slot: where
// its partial result goes, -1 for `out`.
struct DecodeItem {
  int32_t row, head_group, part, slot, token_begin, token_end, unused[2];
};
inline constexpr int kPlanItemWords = sizeof(DecodeItem) / sizeof(int32_t);

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

// Parts of the longest row that a plan takes: 128^2 pages are 2^20 tokens.
inline constexpr int64_t kPartsMax = 128;

// What an item costs beside its pages, in pages: its queries and results are 64 (1152 + 2052) bytes
// or 2.8 pages' traffic for 64 heads, 0.7 and as much again in latency for 16.
inline constexpr int64_t kItemOverheadPages = 2;

// Partial results of slot s at s * SlotFloats(shape) floats of the workspace: [heads, latent] f32
// normalized by the part's own sum, then [heads] log2 of the sum of 2^(score log2(e)).
constexpr int64_t SlotFloats(int64_t heads, int64_t latent) {
  return (heads * (latent + 1) + 3) / 4 * 4;
}

inline constexpr float kLn2 = 0.693147180559945309f;

}  // namespace tandem::gpu_worker::cuda
