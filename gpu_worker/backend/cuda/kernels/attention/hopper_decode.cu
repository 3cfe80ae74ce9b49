// Absorbed attention of one query a row with wgmma and TMA, 512 + 64, bf16 in, f32 inside.
//
// A thread block does its items of the plan one after another: two warpgroups and a
// thread that copies. A page of keys [64, 576] is nine boxes of 64 columns, each with an mbarrier
// of its own, in a ring of two pages; its first eight boxes are the values too. Per page:
//   scores  [64 heads, 64 tokens] = q keys^T by warpgroup 0, box by box as they come
//   softmax by warpgroup 0, in log2, the running maximum and sum in registers. p goes on as
//   operands
//           in registers of warpgroup 0 and through shared memory to warpgroup 1, with the factor
//           that keeps older sums in step.
//   mean    [64, 512] += p values: columns 0-255 by warpgroup 0, 256-511 by warpgroup 1, 128
//           registers a thread each, all that a multiprocessor has room for.
// While one page is computed the next one comes; so a page's computation should take no longer than
// its way from memory, 2.3 us at a 132nd of 4.3 TB/s. Tensor cores (2048 bf16 products a clock)
// have 64 * 64 * 576 + 64 * 64 * 512 of them a page, 2200 clocks or 1.3 us; the softmax between
// adds some 400.
// Between parts of an item the mean waits in the item's slot (decode_plan.h), as it does elsewhere.
//
// Tokens behind a row's length are somebody else's or nobody's: their scores are masked, and
// warpgroup 1, idle while scores are computed, makes their values zero, since 0 times a NaN is one.
#include <algorithm>
#include <cmath>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/kernels/attention/decode_plan.h"
#include "gpu_worker/backend/cuda/kernels/attention/hopper_decode.h"
#include "gpu_worker/backend/cuda/kernels/attention/merge.h"
#include "gpu_worker/backend/cuda/simt/hopper_wgmma.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int kLatent = 512, kKey = 576;
constexpr int kHeads = kHeadGroupMax;
constexpr int kTokens = static_cast<int>(kPageTokens);
static_assert(kHeads == 64 && kTokens == 64, "the tiles of wgmma and of TMA's boxes");

constexpr int kBoxColumns = 64, kBoxBytes = 64 * 128;
constexpr int kKeyBoxes = kKey / kBoxColumns, kValueBoxes = kLatent / kBoxColumns;
constexpr int kStepsOfBox = 4;  // of 16 columns or tokens
constexpr int kStages = 2;
constexpr int kHalf = kLatent / 2;  // columns of the mean of one warpgroup

constexpr int kMathThreads = 2 * kWarpgroupThreads, kMathWarps = kMathThreads / kWarpThreads;
// A third warpgroup, of which one thread copies, gives the others the registers that the mean
// needs: 24 + 2 * 240 a lane are what a multiprocessor has.
constexpr int kThreads = kMathThreads + kWarpgroupThreads;
constexpr int kCopyRegisters = 24, kMathRegisters = 240;

// Named barriers. Both warpgroups meet at kProbReady and kSumsReady; warpgroup 0 waits at kProbFree
// for warpgroup 1.
constexpr int kProbReady = 1, kProbFree = 2, kSumsReady = 3;

struct Shared {
  unsigned char* queries;  // [9 boxes][64 heads, 64], swizzled
  unsigned char* keys;     // [stages][9 boxes][64 tokens, 64], swizzled
  unsigned char* prob;     // [64 heads, 64 tokens] bf16, swizzled
  float* keep;             // [heads]
  // Of the parts so far [heads]: sum; what they and the last part are multiplied by.
  float *merged_sum, *merge_keep, *merge_add;
  uint64_t* queries_full;
  uint64_t* queries_free;
  uint64_t* keys_full;  // [stages][9]
  uint64_t* keys_free;  // [stages]
};
constexpr int kBarriers = 2 + kStages * (kKeyBoxes + 1);
constexpr size_t kSharedBytes =
    size_t{(1 + kStages) * kKeyBoxes + 1} * kBoxBytes + 4 * kHeads * 4 + kBarriers * 8;

__device__ __forceinline__ Shared SharedOf(unsigned char* at) {
  Shared s;
  s.queries = at;
  s.keys = s.queries + kKeyBoxes * kBoxBytes;
  s.prob = s.keys + kStages * kKeyBoxes * kBoxBytes;
  s.keep = reinterpret_cast<float*>(s.prob + kBoxBytes);
  s.merged_sum = s.keep + kHeads;
  s.merge_keep = s.merged_sum + kHeads;
  s.merge_add = s.merge_keep + kHeads;
  s.queries_full = reinterpret_cast<uint64_t*>(s.merge_add + kHeads);
  s.queries_free = s.queries_full + 1;
  s.keys_full = s.queries_free + 1;
  s.keys_free = s.keys_full + kStages * kKeyBoxes;
  return s;
}

struct HopperDecodeParameters {
  const int32_t* page_table;
  int64_t page_table_stride;
  const int32_t* plan;
  int heads;
  int query_box_heads;  // of one copy of queries
  bool keys_once;       // nobody else reads a page of keys: it need not stay in L2
  float scale_log2;     // softmax_scale * log2(e)
  Bf16* out;
  float* lse;
  float* partial;
};

using RingPlace = RingTurn<kStages>;

__device__ __forceinline__ void LoadPage(const Shared& s, const TensorMap& cache_map, bool once,
                                         int page, RingPlace& place) {
  MbarrierWait(s.keys_free + place.stage, place.parity ^ 1u);
  for (int box = 0; box < kKeyBoxes; ++box) {
    unsigned char* const to = s.keys + (place.stage * kKeyBoxes + box) * kBoxBytes;
    uint64_t* const full = s.keys_full + place.stage * kKeyBoxes + box;
    MbarrierArriveExpect(full, kBoxBytes);
    if (once) {
      TmaLoad2d<CacheHint::kOnce>(to, cache_map, box * kBoxColumns, page * kTokens, full);
    } else {
      TmaLoad2d(to, cache_map, box * kBoxColumns, page * kTokens, full);
    }
  }
  place.Next();
}

// One thread: of each item its first page, then its queries, which have to wait for the scores of
// the item before, then the other pages.
__device__ __forceinline__ void Produce(const HopperDecodeParameters& p, const Shared& s,
                                        const TensorMap& query_map, const TensorMap& cache_map,
                                        const DecodeItem* first, const DecodeItem* last) {
  RingPlace place;
  uint32_t queries_parity = 1;
  for (const DecodeItem* item = first; item != last; ++item) {
    const int32_t* const table = p.page_table + int64_t{item->row} * p.page_table_stride;
    const int begin = item->token_begin / kTokens;
    const int end = (item->token_end + kTokens - 1) / kTokens;
    LoadPage(s, cache_map, p.keys_once, table[begin], place);
    MbarrierWait(s.queries_free, queries_parity);
    queries_parity ^= 1u;
    MbarrierArriveExpect(s.queries_full,
                         static_cast<uint32_t>(kKeyBoxes * p.query_box_heads * 128));
    for (int box = 0; box < kKeyBoxes; ++box) {
      TmaLoad3d(s.queries + box * kBoxBytes, query_map, box * kBoxColumns,
                item->head_group * kHeads, item->row, s.queries_full);
    }
    for (int page = begin + 1; page < end; ++page) {
      LoadPage(s, cache_map, p.keys_once, table[page], place);
    }
  }
}

// scores [64, 64] of the stage's page.
__device__ __forceinline__ void Scores(const Shared& s, const RingPlace& place,
                                       float (&scores)[kTokens / 2]) {
  const uint64_t queries = KMajorDescriptor(s.queries);
  const uint64_t keys = KMajorDescriptor(s.keys + place.stage * kKeyBoxes * kBoxBytes);
#pragma unroll
  for (int box = 0; box < kKeyBoxes; ++box) {
    MbarrierWait(s.keys_full + place.stage * kKeyBoxes + box, place.parity);
    // The first one is needed; the others ptxas wants behind a loop, and where it puts them itself
    // it serializes products (C7520).
    if (box == 0) {
      WgmmaFence(scores);
    } else {
      WgmmaFence();
    }
#pragma unroll
    for (int step = 0; step < kStepsOfBox; ++step) {
      const uint32_t at = static_cast<uint32_t>(box * kBoxBytes + step * kKMajorStepBytes);
      WgmmaBf16<kTokens>(scores, DescriptorAt(queries, at), DescriptorAt(keys, at), box + step > 0);
    }
  }
  WgmmaCommit();
  WgmmaWait<0>(scores);
}

// A thread's two rows, g and g + 8 of its warp's sixteen.
struct RowState {
  float max[2] = {-INFINITY, -INFINITY};
  float sum[2] = {0.0f, 0.0f};
};

// scores to p = 2^(score - maximum), not yet rounded; `keep` what older sums are multiplied with.
__device__ __forceinline__ void Softmax(float scale_log2, int tokens, RowState& rows,
                                        float (&scores)[kTokens / 2], float (&keep)[2]) {
  const int column = LaneId() % 4 * 2;
  float largest[2] = {-INFINITY, -INFINITY};
#pragma unroll
  for (int i = 0; i < kTokens / 2; ++i) {
    const int token = i / 4 * 8 + column + i % 2;
    scores[i] = token < tokens ? scores[i] * scale_log2 : -INFINITY;
    largest[i % 4 / 2] = fmaxf(largest[i % 4 / 2], scores[i]);
  }
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    largest[r] = fmaxf(largest[r], __shfl_xor_sync(kFullWarp, largest[r], 1));
    largest[r] = fmaxf(largest[r], __shfl_xor_sync(kFullWarp, largest[r], 2));
    const float max = fmaxf(rows.max[r], largest[r]);
    keep[r] = FastExp2(rows.max[r] - max);  // 0 at the first page: 2^-inf
    rows.max[r] = max;
    rows.sum[r] *= keep[r];
  }
#pragma unroll
  for (int i = 0; i < kTokens / 2; ++i) {
    scores[i] = FastExp2(scores[i] - rows.max[i % 4 / 2]);
    rows.sum[i % 4 / 2] += scores[i];
  }
}

// p as operands of the products with 16 tokens each (hopper_wgmma.h), and the same to shared
// memory.
__device__ __forceinline__ void GiveProbabilities(const Shared& s, int row,
                                                  const float (&scores)[kTokens / 2],
                                                  uint32_t (&words)[kStepsOfBox][4]) {
#pragma unroll
  for (int step = 0; step < kStepsOfBox; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      words[step][i] = PackBf16x2(scores[step * 8 + 2 * i], scores[step * 8 + 2 * i + 1]);
      const int at = (row + i % 2 * 8) * 128 + step * 32 + i / 2 * 16 + LaneId() % 4 * 4;
      *reinterpret_cast<uint32_t*>(s.prob + Swizzle128(static_cast<uint32_t>(at))) = words[step][i];
    }
  }
}

__device__ __forceinline__ void Keep(const float (&keep)[2], float (&mean)[kHalf / 2]) {
  // A factor of 1 changes no bit, and is the rule once the largest score has been seen.
  if (!__any_sync(kFullWarp, keep[0] != 1.0f || keep[1] != 1.0f)) return;
#pragma unroll
  for (int i = 0; i < kHalf / 2; ++i) mean[i] *= keep[i % 4 / 2];
}

// Values of tokens behind the last one, by warpgroup 1.
__device__ __forceinline__ void ClearValues(unsigned char* page, int tokens) {
  struct alignas(16) Unit {
    uint32_t words[4];
  };
  const int rows = kTokens - tokens, thread = static_cast<int>(threadIdx.x) % kWarpgroupThreads;
  for (int i = thread; i < rows * 8 * kValueBoxes; i += kWarpgroupThreads) {
    const int box = i / (rows * 8), unit = i % (rows * 8);  // whole rows: no need to swizzle
    *reinterpret_cast<Unit*>(page + box * kBoxBytes + tokens * 128 + unit * 16) = Unit{};
  }
}

// What a part's results become, by its place among the parts of its item.
struct PartEnd {
  bool merges;  // with those in the slot
  bool final;   // they go to `out`, else to the slot
  __device__ __forceinline__ PartEnd(const DecodeItem& item, int part)
      : merges(part > 0), final(item.slot < 0 || (item.parts > 1 && part + 1 == item.parts)) {}
};

// The token behind part `part` of an item.
__device__ __forceinline__ int PartEndToken(const DecodeItem& item, int part) {
  if (part + 1 == item.parts) return item.token_end;
  const int pages = (item.token_end + kTokens - 1) / kTokens;
  return static_cast<int>(PartPage(pages, item.parts, part + 1)) * kTokens;
}

// A part's rows joined with those of the parts before, `merged`, by every thread for its two rows;
// sums and factors to shared memory for whoever has the mean.
__device__ __forceinline__ void MergeRows(const HopperDecodeParameters& p, const Shared& s,
                                          const DecodeItem& item, PartEnd end, int row,
                                          const RowState& rows, RowState& merged) {
#pragma unroll
  for (int r = 0; r < 2; ++r, row += 8) {
    float max = rows.max[r];
    float sum = rows.sum[r] + __shfl_xor_sync(kFullWarp, rows.sum[r], 1);
    sum += __shfl_xor_sync(kFullWarp, sum, 2);
    const MergeFactors factors(merged.max[r], max);
    if (end.merges) {
      max = factors.max;
      sum = Merged(merged.sum[r], factors.keep, sum, factors.add);
    }
    merged.max[r] = max;
    merged.sum[r] = sum;
    if (LaneId() % 4 != 0) continue;
    s.merged_sum[row] = sum;
    s.merge_keep[row] = factors.keep;
    s.merge_add[row] = factors.add;
    const int head = item.head_group * kHeads + row;
    if (head >= p.heads) continue;
    if (end.final) {
      if (p.lse != nullptr) p.lse[int64_t{item.row} * p.heads + head] = (max + log2f(sum)) * kLn2;
    } else if (item.parts == 1) {
      float* const slot =
          p.partial + item.slot * SlotFloats(p.heads, kLatent) + int64_t{p.heads} * kLatent;
      slot[head] = max;
      slot[p.heads + head] = sum;
    }
  }
}

// Half of the mean, of columns from `first_column` on, rows `row` and row + 8, to where the item
// says. What an item leaves in its slot between two parts each thread finds where it has put it.
__device__ __forceinline__ void StoreMean(const HopperDecodeParameters& p, const Shared& s,
                                          const DecodeItem& item, PartEnd end, int row,
                                          int first_column, const float (&mean)[kHalf / 2]) {
  struct alignas(8) Pair {
    float x, y;
  };
  const int column = first_column + LaneId() % 4 * 2;
#pragma unroll
  for (int r = 0; r < 2; ++r, row += 8) {
    const int head = item.head_group * kHeads + row;
    if (head >= p.heads) continue;
    const float inverse = 1.0f / s.merged_sum[row];
    const float keep = s.merge_keep[row], add = s.merge_add[row];
    const int64_t slot =
        item.slot * SlotFloats(p.heads, kLatent) + int64_t{head} * kLatent + column;
    Bf16* const out = p.out + (int64_t{item.row} * p.heads + head) * kLatent + column;
#pragma unroll
    for (int i = 0; i < kHalf / 8; ++i) {
      Pair value = {mean[4 * i + 2 * r], mean[4 * i + 2 * r + 1]};
      if (end.merges) {
        const Pair before = *reinterpret_cast<const Pair*>(p.partial + slot + 8 * i);
        value = {Merged(before.x, keep, value.x, add), Merged(before.y, keep, value.y, add)};
      }
      if (end.final) {
        *reinterpret_cast<uint32_t*>(out + 8 * i) =
            PackBf16x2(value.x * inverse, value.y * inverse);
      } else {
        *reinterpret_cast<Pair*>(p.partial + slot + 8 * i) = value;
      }
    }
  }
}

// Warpgroup 0 at one page: scores, softmax, the first half of the mean.
__device__ __forceinline__ void AddPageToFirstHalf(const HopperDecodeParameters& p, const Shared& s,
                                                   const RingPlace& place, int row, int tokens,
                                                   bool last_of_item, bool& prob_in_use,
                                                   RowState& rows, float (&mean)[kHalf / 2]) {
  float scores[kTokens / 2], keep[2];
  uint32_t words[kStepsOfBox][4];
  Scores(s, place, scores);
  if (last_of_item && LaneId() == 0) MbarrierArrive(s.queries_free);
  Softmax(p.scale_log2, tokens, rows, scores, keep);
  if (prob_in_use) NamedBarrierSync(kProbFree, kMathThreads);
  prob_in_use = true;
  GiveProbabilities(s, row, scores, words);
  if (LaneId() % 4 == 0) {
    s.keep[row] = keep[0];
    s.keep[row + 8] = keep[1];
  }
  FenceAsyncProxy();
  NamedBarrierSync(kProbReady, kMathThreads);
  Keep(keep, mean);
  const uint64_t values =
      MnMajorDescriptor(s.keys + place.stage * kKeyBoxes * kBoxBytes, kBoxBytes);
  WgmmaFence(mean);
#pragma unroll
  for (int step = 0; step < kStepsOfBox; ++step) {
    WgmmaBf16<kHalf, true>(mean, words[step], DescriptorAt(values, step * kMnMajorStepBytes), 1);
  }
  WgmmaCommit();
  WgmmaWait<0>(mean);
  if (LaneId() == 0) MbarrierArrive(s.keys_free + place.stage);
}

__device__ __forceinline__ void ComputeFirstHalf(const HopperDecodeParameters& p, const Shared& s,
                                                 const DecodeItem* first, const DecodeItem* last) {
  const int row = WarpId() * 16 + LaneId() / 4;
  RingPlace place;
  uint32_t queries_parity = 0;
  bool prob_in_use = false;
  for (const DecodeItem* item = first; item != last; ++item) {
    RowState merged;
    MbarrierWait(s.queries_full, queries_parity);
    queries_parity ^= 1u;
    for (int part = 0, token = item->token_begin; part < item->parts; ++part) {
      RowState rows;
      float mean[kHalf / 2];
#pragma unroll
      for (int i = 0; i < kHalf / 2; ++i) mean[i] = 0.0f;
      for (const int end = PartEndToken(*item, part); token < end; token += kTokens) {
        AddPageToFirstHalf(p, s, place, row, item->token_end - token,
                           token + kTokens >= item->token_end, prob_in_use, rows, mean);
        place.Next();
      }
      const PartEnd end(*item, part);
      MergeRows(p, s, *item, end, row, rows, merged);
      NamedBarrierSync(kSumsReady, kMathThreads);
      StoreMean(p, s, *item, end, row, 0, mean);
    }
  }
  if (prob_in_use) NamedBarrierSync(kProbFree, kMathThreads);  // as many waits as arrivals
}

// Warpgroup 1 at one page: the second half of the mean.
__device__ __forceinline__ void AddPageToSecondHalf(const Shared& s, const RingPlace& place,
                                                    int row, int tokens, float (&mean)[kHalf / 2]) {
  unsigned char* const page = s.keys + place.stage * kKeyBoxes * kBoxBytes;
  for (int box = 0; box < kKeyBoxes; ++box) {
    MbarrierWait(s.keys_full + place.stage * kKeyBoxes + box, place.parity);
  }
  // The scores of these tokens may be under way: they are masked, whatever they come to.
  if (tokens < kTokens) ClearValues(page, tokens);
  FenceAsyncProxy();
  NamedBarrierSync(kProbReady, kMathThreads);
  const float keep[2] = {s.keep[row], s.keep[row + 8]};
  Keep(keep, mean);
  const uint64_t prob = KMajorDescriptor(s.prob);
  const uint64_t values = MnMajorDescriptor(page + kValueBoxes / 2 * kBoxBytes, kBoxBytes);
  WgmmaFence(mean);
#pragma unroll
  for (int step = 0; step < kStepsOfBox; ++step) {
    WgmmaBf16<kHalf, true>(mean, DescriptorAt(prob, step * kKMajorStepBytes),
                           DescriptorAt(values, step * kMnMajorStepBytes), 1);
  }
  WgmmaCommit();
  WgmmaWait<0>(mean);
  NamedBarrierArrive(kProbFree, kMathThreads);
  if (LaneId() == 0) MbarrierArrive(s.keys_free + place.stage);
}

__device__ __forceinline__ void ComputeSecondHalf(const HopperDecodeParameters& p, const Shared& s,
                                                  const DecodeItem* first, const DecodeItem* last) {
  const int row = (WarpId() - kWarpgroupThreads / kWarpThreads) * 16 + LaneId() / 4;
  RingPlace place;
  for (const DecodeItem* item = first; item != last; ++item) {
    for (int part = 0, token = item->token_begin; part < item->parts; ++part) {
      float mean[kHalf / 2];
#pragma unroll
      for (int i = 0; i < kHalf / 2; ++i) mean[i] = 0.0f;
      for (const int end = PartEndToken(*item, part); token < end; token += kTokens) {
        AddPageToSecondHalf(s, place, row, item->token_end - token, mean);
        place.Next();
      }
      NamedBarrierSync(kSumsReady, kMathThreads);
      StoreMean(p, s, *item, PartEnd(*item, part), row, kHalf, mean);
    }
  }
}

__global__ void __launch_bounds__(kThreads, 1)
    HopperDecodeKernel(const __grid_constant__ TensorMap query_map,
                       const __grid_constant__ TensorMap cache_map, HopperDecodeParameters p) {
  const Shared s = SharedOf(SharedMemory());
  if (threadIdx.x == 0) {
    MbarrierInit(s.queries_full, 1);
    MbarrierInit(s.queries_free, kMathWarps / 2);
    for (int i = 0; i < kStages * kKeyBoxes; ++i) MbarrierInit(s.keys_full + i, 1);
    for (int i = 0; i < kStages; ++i) MbarrierInit(s.keys_free + i, kMathWarps);
    MbarrierFenceInit();
  }
  __syncthreads();
  const int32_t* const range = p.plan + kPlanHeaderWords + blockIdx.x;
  const auto* const items = reinterpret_cast<const DecodeItem*>(p.plan + p.plan[kPlanItems]);
  const DecodeItem* const first = items + range[0];
  const DecodeItem* const last = items + range[1];
  if (WarpgroupId() == 2) {
    GiveRegisters<kCopyRegisters>();
    if (threadIdx.x == kMathThreads) Produce(p, s, query_map, cache_map, first, last);
    return;
  }
  TakeRegisters<kMathRegisters>();
  if (WarpgroupId() == 0) {
    ComputeFirstHalf(p, s, first, last);
  } else {
    ComputeSecondHalf(p, s, first, last);
  }
}

// More tokens than any GPU has memory for (2^28 * 1152 bytes are 309 GB): the table says which
// pages there are, the map's size would only make reads of others zeros.
constexpr int64_t kCacheTokens = int64_t{1} << 28;

TensorMap MapOfKeys(const void* cache) {
  return MakeTensorMap({.element = TensorElement::kBf16,
                        .base = cache,
                        .rank = 2,
                        .sizes = {kKey, kCacheTokens, 1},
                        .strides_bytes = {kKey * 2, 0},
                        .box = {kBoxColumns, kTokens, 1},
                        .swizzle_128 = true});
}

TensorMap MapOfQueries(const void* q, int64_t heads, int64_t rows, int box_heads) {
  return MakeTensorMap({.element = TensorElement::kBf16,
                        .base = q,
                        .rank = 3,
                        .sizes = {kKey, heads, rows},
                        .strides_bytes = {kKey * 2, heads * kKey * 2},
                        .box = {kBoxColumns, static_cast<uint32_t>(box_heads), 1},
                        .swizzle_128 = true});
}

}  // namespace

bool HasHopperDecode(const MlaShape& shape, Storage storage) {
  return storage == Storage::kBf16 && shape.latent == kLatent && shape.key() == kKey &&
         HeadGroup(shape) == kHeads;
}

void HopperMlaDecode(const MlaDecodeArgs& args, Stream stream) {
  constexpr double kLog2E = 1.4426950408889634;
  TANDEM_CHECK(HasHopperDecode(args.shape, args.storage));
  TANDEM_CHECK_GE(args.shared_bytes_max, kSharedBytes);
  const int box_heads = static_cast<int>(std::min<int64_t>(kHeads, args.shape.heads));
  const HopperDecodeParameters p{args.page_table,
                                 args.page_table_stride,
                                 static_cast<const int32_t*>(args.plan),
                                 static_cast<int>(args.shape.heads),
                                 box_heads,
                                 HeadGroups(args.shape) == 1,
                                 static_cast<float>(args.shape.softmax_scale * kLog2E),
                                 static_cast<Bf16*>(args.out),
                                 args.lse,
                                 static_cast<float*>(args.workspace)};
  Launch(HopperDecodeKernel, static_cast<unsigned>(args.multiprocessors), kThreads, kSharedBytes,
         stream, MapOfQueries(args.q, args.shape.heads, args.rows, box_heads),
         MapOfKeys(args.cache), p);
}

}  // namespace tandem::gpu_worker::cuda
