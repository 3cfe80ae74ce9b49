// The portable decode kernel, for the .cu files that instantiate it: absorbed attention of one
// query a row with mma.m16n8k16, ldmatrix and cp.async (sm_80 and newer), bf16 in, f32 inside.
//
// A thread block of 8 warps does its items of the plan one after another. Keys come in blocks of 32
// tokens (half a page, so that two of them fit an A100 beside 64 rows of queries) through a ring of
// stages, which runs on over the ends of items; a block of keys is also the block of values, its
// first `latent` columns. Per block:
//   scores  [heads, 32] = q keys^T. Four warps share the tile and two such teams share the
//           dimensions (even and odd steps of 16): a 32-token tile alone is too small for eight
//           warps to reuse what they read. The teams then exchange halves of their partial sums:
//           team 0 goes on with rows g, team 1 with rows g + 8 of each fragment.
//   softmax online, in log2; the maximum so far lives in registers of every thread that owns a part
//           of the row, what it changes goes through shared memory to the warps that hold the mean.
//   mean    [heads, latent] += p values: each warp all heads and latent / 8 columns, so that each
//           value is read from shared memory once.
// Rows in shared memory are an odd number of 16-byte pieces long: ldmatrix meets no bank conflicts,
// and all addresses are a base and a constant.
//
// At 512 + 64, for each page of 64 tokens:
//                                                16 heads         64 heads
//   from device memory or L2                     73.7 kB          73.7 kB
//   loads in flight, 227 KiB (163 KiB) shared    148 (74) kB      74 (37) kB
//   shared memory: keys in                       74 kB            74 kB
//     queries and keys for the scores            221 kB           442 kB
//     exchange, both ways                        8 kB             33 kB
//     p out and to all warps, values             18 + 66 kB       74 + 66 kB
//   m16n8k16                                     544              2176
// An H100 at 1.75 GHz moves 128 B of shared memory a clock: 1.7 us for 16 heads, less than the 2.3
// us that a 132nd of 4.3 TB/s takes for the page, so memory is the limit. 64 heads take 3.1 us of
// shared memory and, at one mma a clock and the 62 % of it that mma.sync is known to reach, 2.0 us
// of tensor cores: shared memory is the limit, at some 40 % of the tensor cores' peak. (On an A100,
// with half the tensor cores, the two are even: 3.8 and 3.1 us at 1.41 GHz.) Loads in flight are
// what Little's law asks of a multiprocessor, 4.3 TB/s / 132 * 0.8 us = 26 kB, and more.
#pragma once

#include <cmath>

#include "gpu_worker/backend/cuda/kernels/attention/decode_plan.h"
#include "gpu_worker/backend/cuda/kernels/attention/merge.h"
#include "gpu_worker/backend/cuda/simt/async_copy.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "gpu_worker/backend/cuda/simt/mma.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

inline constexpr int kDecodeThreads = 256;
inline constexpr int kDecodeWarps = kDecodeThreads / kWarpThreads;
inline constexpr int kDecodeStagesMin = 2, kDecodeStagesMax = 5;

struct PortableDecodeParameters {
  const Bf16* q;
  const Bf16* cache;
  const int32_t* page_table;
  int64_t page_table_stride;
  const int32_t* plan;
  int heads, stages;
  float scale_log2;  // softmax_scale * log2(e)
  Bf16* out;
  float* lse;
  float* partial;
};

template <int kLatent_, int kRope_, int kTiles_>
struct DecodeTile {
  static constexpr int kLatent = kLatent_, kKey = kLatent_ + kRope_, kTiles = kTiles_;
  static constexpr int kHeads = kHeadTile * kTiles;
  static constexpr int kTokens = 32;
  static constexpr int kPieces = kKey / 8;          // 16-byte pieces of a row
  static constexpr int kPitch = (kPieces | 1) * 8;  // of keys and queries, values
  static constexpr int kProbPitch = kTokens + 8;    // of p, values
  static_assert(kPageTokens % kTokens == 0 && kLatent % 16 == 0 && kKey % 16 == 0);

  // Scores: two teams of four warps; a warp has kTilesM x kTilesN tiles of 16 heads x 8 tokens.
  static constexpr int kSteps = kKey / 16;
  static constexpr int kWarpsM = kTiles == 1 ? 1 : 2, kWarpsN = 4 / kWarpsM;
  static constexpr int kTilesM = kTiles / kWarpsM, kTilesN = kTokens / 8 / kWarpsN;
  // Sums side by side, so that an mma rarely waits for the one before it.
  static constexpr int kChains = kTilesM * kTilesN >= 4 ? 1 : 2;

  // Mean: the columns of a warp; small shapes leave warps without any.
  static constexpr int kColumns = kLatent / kDecodeWarps < 16 ? 16 : kLatent / kDecodeWarps;
  static_assert(kColumns % 16 == 0 && kLatent % kColumns == 0);

  // Bytes of shared memory, in this order; stages last.
  static constexpr int kQueryBytes = kHeads * kPitch * 2;
  static constexpr int kExchangeBytes = kDecodeWarps * kTilesM * kTilesN * kWarpThreads * 8;
  static constexpr int kProbBytes = kHeads * kProbPitch * 2;
  static constexpr int kRowBytes = kHeads * 4;  // a float a head
  static constexpr int kStageBytes = kTokens * kPitch * 2;
  static constexpr int kFixedBytes =
      kQueryBytes + kExchangeBytes + kProbBytes + (2 * kWarpsN + 5) * kRowBytes;
  static constexpr int StagesFor(size_t shared_bytes_max) {
    const int64_t stages = (static_cast<int64_t>(shared_bytes_max) - kFixedBytes) / kStageBytes;
    return static_cast<int>(stages < kDecodeStagesMax ? stages : kDecodeStagesMax);
  }
};

// Two neighbouring floats of a fragment, moved as one.
struct alignas(8) FloatPair {
  float x, y;
};

// Where the parts of shared memory are.
template <typename Tile>
struct DecodeShared {
  Bf16* queries;        // [kHeads, kPitch]
  FloatPair* exchange;  // [warp][tile of the warp][lane]
  Bf16* prob;           // [kHeads, kProbPitch]
  float* max;           // [kWarpsN, kHeads]
  float* sum;           // [kWarpsN, kHeads]
  float* keep;          // [kHeads]
  // Of the parts so far [kHeads]: maximum and sum; what they and the last part are multiplied by.
  float *merged_max, *merged_sum, *merge_keep, *merge_add;
  Bf16* stages;  // [stages, kTokens, kPitch]

  __device__ DecodeShared() {
    unsigned char* at = SharedMemory();
    queries = reinterpret_cast<Bf16*>(at);
    at += Tile::kQueryBytes;
    exchange = reinterpret_cast<FloatPair*>(at);
    at += Tile::kExchangeBytes;
    prob = reinterpret_cast<Bf16*>(at);
    at += Tile::kProbBytes;
    max = reinterpret_cast<float*>(at);
    sum = max + Tile::kWarpsN * Tile::kHeads;
    keep = sum + Tile::kWarpsN * Tile::kHeads;
    merged_max = keep + Tile::kHeads;
    merged_sum = merged_max + Tile::kHeads;
    merge_keep = merged_sum + Tile::kHeads;
    merge_add = merge_keep + Tile::kHeads;
    stages = reinterpret_cast<Bf16*>(merge_add + Tile::kHeads);
  }
};

__device__ __forceinline__ void WaitStages(int pending) {
  switch (pending) {
    case 0:
      return WaitAsyncCopies<0>();
    case 1:
      return WaitAsyncCopies<1>();
    case 2:
      return WaitAsyncCopies<2>();
    default:
      return WaitAsyncCopies<3>();
  }
}

// Queries of an item into shared memory; rows behind the last head are zeros.
template <typename Tile>
__device__ __forceinline__ void LoadQueries(const PortableDecodeParameters& p,
                                            const DecodeItem& item, Bf16* queries) {
  const int eighth = LaneId() % 8;
  for (int row = 4 * WarpId() + LaneId() / 8; row < Tile::kHeads; row += 4 * kDecodeWarps) {
    const int head = item.head_group * Tile::kHeads + row;
    const bool valid = head < p.heads;
    const Bf16* const from = p.q + (int64_t{item.row} * p.heads + (valid ? head : 0)) * Tile::kKey;
    for (int piece = eighth; piece < Tile::kPieces; piece += 8) {
      CopyAsync16(queries + row * Tile::kPitch + piece * 8, from + piece * 8, valid);
    }
  }
}

// Goes through the keys of all items of a thread block, some stages ahead of the products.
template <typename Tile>
struct KeyLoader {
  const DecodeItem* item;
  const DecodeItem* last;
  const int32_t* table;
  int token, end;  // of the item
  int page;        // of `token`, read one block ahead
  int stage;

  __device__ __forceinline__ KeyLoader(const PortableDecodeParameters& p, const DecodeItem* first,
                                       const DecodeItem* behind)
      : item(first), last(behind), stage(0) {
    Enter(p);
  }

  __device__ __forceinline__ void Enter(const PortableDecodeParameters& p) {
    if (item == last) return;
    table = p.page_table + int64_t{item->row} * p.page_table_stride;
    token = item->token_begin;
    end = item->token_end;
    page = table[token / static_cast<int>(kPageTokens)];
  }

  // The next block, as one group of copies; an empty group behind the last item. Tokens behind the
  // item's end are zeros: they count as values too, and 0 times a NaN would be one.
  __device__ __forceinline__ void Issue(const PortableDecodeParameters& p, Bf16* stages) {
    if (item != last) {
      const int row = 4 * WarpId() + LaneId() / 8;  // 8 warps of 4 rows: the block's 32 tokens
      const bool valid = token + row < end;
      const int64_t slot =
          int64_t{page} * kPageTokens + token % static_cast<int>(kPageTokens) + row;
      const Bf16* const from = p.cache + (valid ? slot * Tile::kKey : 0);
      Bf16* const to = stages + stage * (Tile::kStageBytes / 2) + row * Tile::kPitch;
#pragma unroll
      for (int piece = 0; piece < Tile::kPieces; piece += 8) {
        const int mine = piece + LaneId() % 8;
        if (Tile::kPieces % 8 != 0 && mine >= Tile::kPieces) break;
        CopyAsync16(to + mine * 8, from + mine * 8, valid);
      }
      stage = stage + 1 == p.stages ? 0 : stage + 1;
      token += Tile::kTokens;
      if (token >= end) {
        ++item;
        Enter(p);
      } else if (token % static_cast<int>(kPageTokens) == 0) {
        page = table[token / static_cast<int>(kPageTokens)];
      }
    }
    CommitAsyncCopies();
  }
};

// A warp's place in the products of queries and keys.
template <typename Tile>
struct ScoreWarp {
  int team, m, n;  // the team takes every second step of 16 dimensions
  __device__ __forceinline__ ScoreWarp()
      : team(WarpId() / 4), m(WarpId() % 4 / Tile::kWarpsN), n(WarpId() % 4 % Tile::kWarpsN) {}
  // The first head and token of its tiles.
  __device__ __forceinline__ int head() const { return m * Tile::kTilesM * kHeadTile; }
  __device__ __forceinline__ int token() const { return n * Tile::kTilesN * 8; }
  // The row of tile i that this thread goes on with.
  __device__ __forceinline__ int row(int i) const {
    return head() + i * kHeadTile + 8 * team + LaneId() / 4;
  }
};

// The team's share of the scores of the warp's tiles.
template <typename Tile>
__device__ __forceinline__ void PartialScores(const ScoreWarp<Tile>& warp, const Bf16* queries,
                                              const Bf16* keys,
                                              float (&sum)[Tile::kTilesM][Tile::kTilesN][4]) {
  const int lane = LaneId();
  const Bf16* const q =
      queries + (warp.head() + lane % 16) * Tile::kPitch + lane / 16 * 8 + warp.team * 16;
  const Bf16* const k = keys + (warp.token() + lane % 8 + lane / 16 * 8) * Tile::kPitch +
                        lane / 8 % 2 * 8 + warp.team * 16;
  const Bf16* const k_single =
      keys + (warp.token() + lane % 8) * Tile::kPitch + lane / 8 % 2 * 8 + warp.team * 16;
  float chains[Tile::kChains][Tile::kTilesM][Tile::kTilesN][4] = {};
#pragma unroll
  for (int i = 0; i < (Tile::kSteps + 1) / 2; ++i) {
    if (Tile::kSteps % 2 == 1 && 2 * i + warp.team >= Tile::kSteps) break;
    uint32_t right[Tile::kTilesN][2];
    if constexpr (Tile::kTilesN == 2) {
      uint32_t both[4];
      LoadMatrix<4>(both, k + i * 32);
      right[0][0] = both[0], right[0][1] = both[1];
      right[1][0] = both[2], right[1][1] = both[3];
    } else {
      LoadMatrix<2>(right[0], k_single + i * 32);
    }
#pragma unroll
    for (int m = 0; m < Tile::kTilesM; ++m) {
      uint32_t left[4];
      LoadMatrix<4>(left, q + m * kHeadTile * Tile::kPitch + i * 32);
#pragma unroll
      for (int n = 0; n < Tile::kTilesN; ++n) {
        MmaBf16(chains[i % Tile::kChains][m][n], left, right[n]);
      }
    }
  }
#pragma unroll
  for (int m = 0; m < Tile::kTilesM; ++m) {
#pragma unroll
    for (int n = 0; n < Tile::kTilesN; ++n) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        sum[m][n][e] = chains[0][m][n][e];
        if constexpr (Tile::kChains == 2) sum[m][n][e] += chains[1][m][n][e];
      }
    }
  }
}

// What the other team goes on with, to shared memory.
template <typename Tile>
__device__ __forceinline__ void GiveScores(const ScoreWarp<Tile>& warp, FloatPair* exchange,
                                           const float (&sum)[Tile::kTilesM][Tile::kTilesN][4]) {
  FloatPair* to = exchange + WarpId() * (Tile::kTilesM * Tile::kTilesN * kWarpThreads) + LaneId();
#pragma unroll
  for (int m = 0; m < Tile::kTilesM; ++m) {
#pragma unroll
    for (int n = 0; n < Tile::kTilesN; ++n, to += kWarpThreads) {
      const float(&s)[4] = sum[m][n];
      *to = warp.team == 0 ? FloatPair{s[2], s[3]} : FloatPair{s[0], s[1]};
    }
  }
}

// The thread's scores, in log2 and -inf behind the last token, and the largest of each row to
// shared memory.
template <typename Tile>
__device__ __forceinline__ void TakeScores(const ScoreWarp<Tile>& warp, FloatPair* exchange,
                                           float scale_log2, int tokens,
                                           const float (&sum)[Tile::kTilesM][Tile::kTilesN][4],
                                           float (&mine)[Tile::kTilesM][Tile::kTilesN][2],
                                           float* max) {
  const FloatPair* from =
      exchange + (WarpId() ^ 4) * (Tile::kTilesM * Tile::kTilesN * kWarpThreads) + LaneId();
#pragma unroll
  for (int m = 0; m < Tile::kTilesM; ++m) {
    float largest = -INFINITY;
#pragma unroll
    for (int n = 0; n < Tile::kTilesN; ++n, from += kWarpThreads) {
      const float(&s)[4] = sum[m][n];
      const FloatPair other = *from;
      const int token = warp.token() + n * 8 + LaneId() % 4 * 2;
      const float low = ((warp.team == 0 ? s[0] : s[2]) + other.x) * scale_log2;
      const float high = ((warp.team == 0 ? s[1] : s[3]) + other.y) * scale_log2;
      mine[m][n][0] = token < tokens ? low : -INFINITY;
      mine[m][n][1] = token + 1 < tokens ? high : -INFINITY;
      largest = fmaxf(largest, fmaxf(mine[m][n][0], mine[m][n][1]));
    }
    largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, 1));
    largest = fmaxf(largest, __shfl_xor_sync(kFullWarp, largest, 2));
    if (LaneId() % 4 == 0) max[warp.n * Tile::kHeads + warp.row(m)] = largest;
  }
}

// p = 2^(score - maximum) to shared memory as bf16; the thread's maxima and sums move on.
template <typename Tile>
__device__ __forceinline__ void Exponentials(const ScoreWarp<Tile>& warp,
                                             const DecodeShared<Tile>& shared,
                                             const float (&mine)[Tile::kTilesM][Tile::kTilesN][2],
                                             float (&row_max)[Tile::kTilesM],
                                             float (&row_sum)[Tile::kTilesM]) {
#pragma unroll
  for (int m = 0; m < Tile::kTilesM; ++m) {
    const int row = warp.row(m);
    float max = row_max[m];
#pragma unroll
    for (int n = 0; n < Tile::kWarpsN; ++n) max = fmaxf(max, shared.max[n * Tile::kHeads + row]);
    const float keep = FastExp2(row_max[m] - max);  // 0 in the first block: 2^-inf
    row_max[m] = max;
    row_sum[m] *= keep;
    if (warp.n == 0 && LaneId() % 4 == 0) shared.keep[row] = keep;
    Bf16* const to = shared.prob + row * Tile::kProbPitch + warp.token() + LaneId() % 4 * 2;
#pragma unroll
    for (int n = 0; n < Tile::kTilesN; ++n) {
      const float low = FastExp2(mine[m][n][0] - max), high = FastExp2(mine[m][n][1] - max);
      row_sum[m] += low + high;
      *reinterpret_cast<uint32_t*>(to + n * 8) = PackBf16x2(low, high);
    }
  }
}

// mean = mean * keep + p values, for the warp's columns.
template <typename Tile>
__device__ __forceinline__ void AddValues(const DecodeShared<Tile>& shared, const Bf16* values,
                                          float (&mean)[Tile::kTiles][Tile::kColumns / 8][4]) {
  const int lane = LaneId();
  float keep[Tile::kTiles][2];
  bool changed = false;
#pragma unroll
  for (int m = 0; m < Tile::kTiles; ++m) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      keep[m][r] = shared.keep[m * kHeadTile + 8 * r + lane / 4];
      changed |= keep[m][r] != 1.0f;
    }
  }
  // A factor of 1 changes no bit, and is the rule once the largest score has been seen.
  if (__any_sync(kFullWarp, changed)) {
#pragma unroll
    for (int m = 0; m < Tile::kTiles; ++m) {
#pragma unroll
      for (int n = 0; n < Tile::kColumns / 8; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) mean[m][n][e] *= keep[m][e / 2];
      }
    }
  }
  const Bf16* const p = shared.prob + lane % 16 * Tile::kProbPitch + lane / 16 * 8;
  const Bf16* const v =
      values + lane % 16 * Tile::kPitch + WarpId() * Tile::kColumns + lane / 16 * 8;
#pragma unroll
  for (int step = 0; step < Tile::kTokens / 16; ++step) {
    uint32_t left[Tile::kTiles][4];
#pragma unroll
    for (int m = 0; m < Tile::kTiles; ++m) {
      LoadMatrix<4>(left[m], p + m * kHeadTile * Tile::kProbPitch + step * 16);
    }
#pragma unroll
    for (int n = 0; n < Tile::kColumns / 8; n += 2) {
      uint32_t both[4];
      LoadMatrix<4, true>(both, v + step * 16 * Tile::kPitch + n * 8);
      const uint32_t first[2] = {both[0], both[1]}, second[2] = {both[2], both[3]};
#pragma unroll
      for (int m = 0; m < Tile::kTiles; ++m) {
        MmaBf16(mean[m][n], left[m], first);
        MmaBf16(mean[m][n + 1], left[m], second);
      }
    }
  }
}

// Sums of the rows to shared memory, a part from each of the warps that share a row.
template <typename Tile>
__device__ __forceinline__ void ShareSums(const ScoreWarp<Tile>& warp, float* sum,
                                          const float (&row_sum)[Tile::kTilesM]) {
#pragma unroll
  for (int m = 0; m < Tile::kTilesM; ++m) {
    float total = row_sum[m] + __shfl_xor_sync(kFullWarp, row_sum[m], 1);
    total += __shfl_xor_sync(kFullWarp, total, 2);
    if (LaneId() % 4 == 0) sum[warp.n * Tile::kHeads + warp.row(m)] = total;
  }
}

template <typename Tile>
__device__ __forceinline__ float TotalSum(const float* sum, int row) {
  float total = sum[row];
#pragma unroll
  for (int n = 1; n < Tile::kWarpsN; ++n) total += sum[n * Tile::kHeads + row];
  return total;
}

// What a part's results become, by its place among the parts of its item.
struct PartEnd {
  bool merges;  // with those in the slot
  bool final;   // they go to `out`, else to the slot
  __device__ __forceinline__ PartEnd(const DecodeItem& item, int part)
      : merges(part > 0), final(item.slot < 0 || (item.parts > 1 && part + 1 == item.parts)) {}
};

// Maxima and sums of the rows, merged with those of the parts before; each row by one thread.
template <typename Tile>
__device__ __forceinline__ void MergeSums(const PortableDecodeParameters& p,
                                          const ScoreWarp<Tile>& warp, const DecodeItem& item,
                                          PartEnd end, const DecodeShared<Tile>& shared,
                                          const float (&row_max)[Tile::kTilesM]) {
  if (warp.n != 0 || LaneId() % 4 != 0) return;
#pragma unroll
  for (int m = 0; m < Tile::kTilesM; ++m) {
    const int row = warp.row(m), head = item.head_group * Tile::kHeads + row;
    float max = row_max[m], sum = TotalSum<Tile>(shared.sum, row);
    if (end.merges) {
      const MergeFactors factors(shared.merged_max[row], max);
      max = factors.max;
      sum = Merged(shared.merged_sum[row], factors.keep, sum, factors.add);
      shared.merge_keep[row] = factors.keep;
      shared.merge_add[row] = factors.add;
    }
    shared.merged_max[row] = max;
    shared.merged_sum[row] = sum;
    if (head >= p.heads) continue;
    if (!end.final && item.parts == 1) {
      float* const slot = p.partial + item.slot * SlotFloats(p.heads, Tile::kLatent) +
                          int64_t{p.heads} * Tile::kLatent;
      slot[head] = max;
      slot[p.heads + head] = sum;
    } else if (end.final && p.lse != nullptr) {
      p.lse[int64_t{item.row} * p.heads + head] = (max + log2f(sum)) * kLn2;
    }
  }
}

// The warp's columns of the mean. What an item leaves in its slot between two of its parts each
// thread finds where it has put it itself.
template <typename Tile>
__device__ __forceinline__ void StoreMean(
    const PortableDecodeParameters& p, const DecodeItem& item, PartEnd end,
    const DecodeShared<Tile>& shared, const float (&mean)[Tile::kTiles][Tile::kColumns / 8][4]) {
  const int column = WarpId() * Tile::kColumns + LaneId() % 4 * 2;
#pragma unroll
  for (int m = 0; m < Tile::kTiles; ++m) {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = m * kHeadTile + 8 * r + LaneId() / 4;
      const int head = item.head_group * Tile::kHeads + row;
      if (head >= p.heads) continue;
      const float inverse = 1.0f / shared.merged_sum[row];
      const float keep = end.merges ? shared.merge_keep[row] : 0.0f;
      const float add = end.merges ? shared.merge_add[row] : 0.0f;
      const int64_t slot =
          item.slot * SlotFloats(p.heads, Tile::kLatent) + int64_t{head} * Tile::kLatent + column;
      Bf16* const out = p.out + (int64_t{item.row} * p.heads + head) * Tile::kLatent + column;
#pragma unroll
      for (int n = 0; n < Tile::kColumns / 8; ++n) {
        FloatPair value = {mean[m][n][2 * r], mean[m][n][2 * r + 1]};
        if (end.merges) {
          const auto before = *reinterpret_cast<const FloatPair*>(p.partial + slot + n * 8);
          value = {Merged(before.x, keep, value.x, add), Merged(before.y, keep, value.y, add)};
        }
        if (end.final) {
          *reinterpret_cast<uint32_t*>(out + n * 8) =
              PackBf16x2(value.x * inverse, value.y * inverse);
        } else {
          *reinterpret_cast<FloatPair*>(p.partial + slot + n * 8) = value;
        }
      }
    }
  }
}

template <int kLatent, int kRope, int kTiles>
__global__ void __launch_bounds__(kDecodeThreads, 1)
    PortableDecodeKernel(PortableDecodeParameters p) {
  using Tile = DecodeTile<kLatent, kRope, kTiles>;
  const DecodeShared<Tile> shared;
  const ScoreWarp<Tile> warp;
  const int32_t* const range = p.plan + kPlanHeaderWords + blockIdx.x;
  const auto* const items = reinterpret_cast<const DecodeItem*>(p.plan + p.plan[kPlanItems]);
  const DecodeItem* const first = items + range[0];
  const DecodeItem* const last = items + range[1];
  if (first == last) return;

  LoadQueries<Tile>(p, *first, shared.queries);
  CommitAsyncCopies();
  KeyLoader<Tile> loader(p, first, last);
  for (int s = 0; s < p.stages - 1; ++s) loader.Issue(p, shared.stages);

  int stage = 0;
  for (const DecodeItem* item = first; item != last; ++item) {
    const int begin = item->token_begin, end = item->token_end, parts = item->parts;
    for (int part = 0, token = begin; part < parts; ++part) {
      const int part_end =
          part + 1 == parts
              ? end
              : static_cast<int>(PartPage((end + kPageTokens - 1) / kPageTokens, parts, part + 1) *
                                 kPageTokens);
      float mean[kTiles][Tile::kColumns / 8][4] = {};
      float row_max[Tile::kTilesM], row_sum[Tile::kTilesM];
#pragma unroll
      for (int m = 0; m < Tile::kTilesM; ++m) row_max[m] = -INFINITY, row_sum[m] = 0.0f;
      for (; token < part_end; token += Tile::kTokens) {
        // All stages but the last `stages - 2` that were asked for; queries of an item that is not
        // the first were asked for just before the newest of them.
        const bool new_queries = token == begin && item != first;
        WaitStages(new_queries && p.stages > 3 ? 1 : p.stages - 2);
        __syncthreads();  // the stage is there, and nobody reads the one before any more
        const bool ends = token + Tile::kTokens >= end;
        if (!ends) loader.Issue(p, shared.stages);
        const Bf16* const keys = shared.stages + stage * (Tile::kStageBytes / 2);
        float sum[Tile::kTilesM][Tile::kTilesN][4], mine[Tile::kTilesM][Tile::kTilesN][2];
        PartialScores<Tile>(warp, shared.queries, keys, sum);
        GiveScores<Tile>(warp, shared.exchange, sum);
        __syncthreads();  // nobody reads the queries any more
        if (ends) {
          if (item + 1 != last) LoadQueries<Tile>(p, item[1], shared.queries);
          CommitAsyncCopies();
          loader.Issue(p, shared.stages);
        }
        TakeScores<Tile>(warp, shared.exchange, p.scale_log2, end - token, sum, mine, shared.max);
        __syncthreads();
        Exponentials<Tile>(warp, shared, mine, row_max, row_sum);
        __syncthreads();
        if (WarpId() * Tile::kColumns < kLatent) AddValues<Tile>(shared, keys, mean);
        stage = stage + 1 == p.stages ? 0 : stage + 1;
      }
      const PartEnd part_result(*item, part);
      ShareSums<Tile>(warp, shared.sum, row_sum);
      __syncthreads();
      MergeSums<Tile>(p, warp, *item, part_result, shared, row_max);
      __syncthreads();
      if (WarpId() * Tile::kColumns < kLatent) {
        StoreMean<Tile>(p, *item, part_result, shared, mean);
      }
    }
  }
  WaitAsyncCopies<0>();
}

template <int kLatent, int kRope, int kTiles>
void LaunchPortableDecode(const MlaDecodeArgs& args, Stream stream) {
  using Tile = DecodeTile<kLatent, kRope, kTiles>;
  constexpr double kLog2E = 1.4426950408889634;
  const int stages = Tile::StagesFor(args.shared_bytes_max);
  TANDEM_CHECK_GE(stages, kDecodeStagesMin);
  const PortableDecodeParameters p{static_cast<const Bf16*>(args.q),
                                   static_cast<const Bf16*>(args.cache),
                                   args.page_table,
                                   args.page_table_stride,
                                   static_cast<const int32_t*>(args.plan),
                                   static_cast<int>(args.shape.heads),
                                   stages,
                                   static_cast<float>(args.shape.softmax_scale * kLog2E),
                                   static_cast<Bf16*>(args.out),
                                   args.lse,
                                   static_cast<float*>(args.workspace)};
  Launch(PortableDecodeKernel<kLatent, kRope, kTiles>, static_cast<unsigned>(args.multiprocessors),
         kDecodeThreads,
         Tile::kFixedBytes + size_t{static_cast<size_t>(stages)} * Tile::kStageBytes, stream, p);
}

// The tile count that PlanDecode's head groups have.
template <int kLatent, int kRope>
void LaunchPortableDecode(const MlaDecodeArgs& args, Stream stream) {
  switch (HeadGroup(args.shape) / kHeadTile) {
    case 1:
      return LaunchPortableDecode<kLatent, kRope, 1>(args, stream);
    case 2:
      return LaunchPortableDecode<kLatent, kRope, 2>(args, stream);
    default:
      return LaunchPortableDecode<kLatent, kRope, 4>(args, stream);
  }
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
