// Prefill on Hopper, after FlashAttention-3: a thread block takes 128 rows of one head through the
// keys in blocks of 128. One warpgroup starts the copies (TMA), into two stages of keys and of
// values; the two others have 64 rows each and multiply by wgmma, queries and keys from shared
// memory, weights from registers. While the weights of a block are multiplied by its values, the
// scores of the next block, which were issued before, become weights; and the two warpgroups take
// turns in issuing, so that one multiplies while the other computes exponentials.
//
// Bits: blocks count from position 0 and rows need nothing of one another, so a row's are those of
// any other call that has it; they differ from the portable kernel's, whose blocks are half as
// long.
#include <algorithm>
#include <cmath>

#include "gpu_worker/backend/cuda/kernels/attention/prefill_kernels.h"
#include "gpu_worker/backend/cuda/kernels/attention/prefill_state.h"
#include "gpu_worker/backend/cuda/simt/hopper_wgmma.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int kNope = 128, kRope = 64, kV = 128, kQk = kNope + kRope;
constexpr int kConsumers = 2;
constexpr int kThreads = (1 + kConsumers) * kWarpgroupThreads;
constexpr int kGroupRows = 64;  // of a consumer: the M of a wgmma
constexpr int kKeys = static_cast<int>(kPrefillBlockTokens);
constexpr int kStages = 2;
static_assert(kConsumers * kGroupRows == kPrefillTileRows);

// Tiles in shared memory are columns of boxes 64 values (128 bytes, a swizzled row) wide.
constexpr int kBoxColumns = 64, kRowBytes = 128;
constexpr int kKeyBoxBytes = kKeys * kRowBytes, kQueryBoxBytes = kGroupRows * kRowBytes;
constexpr int kKeyBoxes = kQk / kBoxColumns, kValueBoxes = kV / kBoxColumns;
constexpr int kKeyBytes = kKeyBoxes * kKeyBoxBytes, kValueBytes = kValueBoxes * kKeyBoxBytes;
constexpr int kQueryBytes = kKeyBoxes * kQueryBoxBytes;  // of one consumer

struct HopperPrefillMaps {
  TensorMap q;       // [rows, heads, nope + rope], box [<= 64, 1, 64]
  TensorMap keys;    // [heads, tokens, nope], box [1, 128, 64]
  TensorMap ropes;   // the latents [tokens, latent + rope], box [128, 64]
  TensorMap values;  // [heads, tokens, v], box [1, 128, 64]
};

constexpr int kTileBytes = kConsumers * kQueryBytes + kStages * (kKeyBytes + kValueBytes);
constexpr int kBarriers = 1 + 4 * kStages;
constexpr size_t kHopperSharedBytes = kTileBytes + kBarriers * sizeof(uint64_t);

#if defined(TANDEM_SM90A) || !defined(__CUDACC__)

constexpr int kStepsOfBox = kBoxColumns / 16;  // k steps

// Registers: 128 threads keep 24, 256 take 240, of 65536.
constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;

// Named barriers of the consumers' turns.
constexpr int kTurnBarrier = 1;
constexpr int kTurnThreads = kConsumers * kWarpgroupThreads;

struct HopperShared {
  unsigned char* queries;  // [consumers][boxes][64 rows]
  unsigned char* keys;     // [stages][boxes][128 rows]
  unsigned char* values;   // [stages][boxes][128 rows]
  uint64_t* queries_full;
  uint64_t* keys_full;  // [stages], as the others below
  uint64_t* keys_free;
  uint64_t* values_full;
  uint64_t* values_free;
};

__device__ __forceinline__ HopperShared CarveShared() {
  unsigned char* const base = SharedMemory();
  auto* const barriers = reinterpret_cast<uint64_t*>(base + kTileBytes);
  unsigned char* const keys = base + kConsumers * kQueryBytes;
  return {base,
          keys,
          keys + kStages * kKeyBytes,
          barriers,
          barriers + 1,
          barriers + 1 + kStages,
          barriers + 1 + 2 * kStages,
          barriers + 1 + 3 * kStages};
}

__device__ __forceinline__ void StartBarriers(const HopperShared& shared) {
  if (threadIdx.x == 0) {
    constexpr int kConsumerWarps = kConsumers * kWarpgroupThreads / kWarpThreads;
    MbarrierInit(shared.queries_full, 1);
    for (int s = 0; s < kStages; ++s) {
      MbarrierInit(shared.keys_full + s, 1);
      MbarrierInit(shared.values_full + s, 1);
      MbarrierInit(shared.keys_free + s, kConsumerWarps);
      MbarrierInit(shared.values_free + s, kConsumerWarps);
    }
    MbarrierFenceInit();
  }
  __syncthreads();
}

__device__ __forceinline__ void LoadQueryTile(const HopperPrefillMaps& maps, int box_rows,
                                              const PrefillParameters& p, const PrefillTile& tile,
                                              const HopperShared& shared) {
  // A box counts whole, rows behind the last one included; a consumer all of whose rows lie there
  // has none to load.
  const int groups = tile.row + kGroupRows < p.rows ? 2 : 1;
  MbarrierArriveExpect(shared.queries_full,
                       static_cast<uint32_t>(groups * kKeyBoxes * box_rows * kRowBytes));
  for (int group = 0; group < groups; ++group) {
    for (int box = 0; box < kKeyBoxes; ++box) {
      TmaLoad3d(shared.queries + group * kQueryBytes + box * kQueryBoxBytes, maps.q,
                box * kBoxColumns, p.head_begin + static_cast<int>(tile.head),
                static_cast<int>(tile.row) + group * kGroupRows, shared.queries_full);
    }
  }
}

// One thread: all copies of the tile.
__device__ __forceinline__ void Produce(const HopperPrefillMaps& maps, int box_rows,
                                        const PrefillParameters& p, const PrefillTile& tile,
                                        const HopperShared& shared) {
  LoadQueryTile(maps, box_rows, p, tile, shared);
  const int head = static_cast<int>(tile.head);
  const int blocks = tile.Blocks(p, kKeys);
  for (int block = 0; block < blocks; ++block) {
    const int stage = block % kStages, first = block * kKeys;
    const uint32_t parity = static_cast<uint32_t>(block / kStages + 1) & 1u;
    unsigned char* const keys = shared.keys + stage * kKeyBytes;
    MbarrierWait(shared.keys_free + stage, parity);
    MbarrierArriveExpect(shared.keys_full + stage, kKeyBytes);
    for (int box = 0; box < kNope / kBoxColumns; ++box) {
      TmaLoad3d(keys + box * kKeyBoxBytes, maps.keys, box * kBoxColumns, first, head,
                shared.keys_full + stage);
    }
    TmaLoad2d(keys + kNope / kBoxColumns * kKeyBoxBytes, maps.ropes, p.latent, first,
              shared.keys_full + stage);
    unsigned char* const values = shared.values + stage * kValueBytes;
    MbarrierWait(shared.values_free + stage, parity);
    MbarrierArriveExpect(shared.values_full + stage, kValueBytes);
    for (int box = 0; box < kValueBoxes; ++box) {
      TmaLoad3d(values + box * kKeyBoxBytes, maps.values, box * kBoxColumns, first, head,
                shared.values_full + stage);
    }
  }
}

// This warp is done with what the barrier guards; one thread of it says so.
__device__ __forceinline__ void ReleaseStage(uint64_t* free) {
  if (LaneId() == 0) MbarrierArrive(free);
}

// Keeps the writes of weights before the fence that follows.
__device__ __forceinline__ void HoldWeights(uint32_t (&p)[kKeys / 16][4]) {
#if defined(__CUDACC__)
#pragma unroll
  for (int step = 0; step < kKeys / 16; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) asm volatile("" : "+r"(p[step][i])::"memory");
  }
#endif
}

// scores [64, 128] = queries keys^T, issued.
__device__ __forceinline__ void IssueScores(uint64_t queries, uint64_t keys,
                                            float (&scores)[kKeys / 2]) {
#pragma unroll
  for (int box = 0; box < kKeyBoxes; ++box) {
#pragma unroll
    for (int step = 0; step < kStepsOfBox; ++step) {
      WgmmaBf16<kKeys>(
          scores, DescriptorAt(queries, box * kQueryBoxBytes + step * kKMajorStepBytes),
          DescriptorAt(keys, box * kKeyBoxBytes + step * kKMajorStepBytes), box + step > 0);
    }
  }
  WgmmaCommit();
}

// means [64, v] += weights values, issued.
__device__ __forceinline__ void IssueMeans(const uint32_t (&p)[kKeys / 16][4], uint64_t values,
                                           float (&means)[kV / 2]) {
#pragma unroll
  for (int step = 0; step < kKeys / 16; ++step) {
    WgmmaBf16<kV, true>(means, p[step], DescriptorAt(values, step * kMnMajorStepBytes), 1);
  }
  WgmmaCommit();
}

__device__ __forceinline__ void PackWeights(const float (&scores)[kKeys / 2],
                                            uint32_t (&p)[kKeys / 16][4]) {
#pragma unroll
  for (int step = 0; step < kKeys / 16; ++step) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      p[step][i] = PackBf16x2(scores[8 * step + 2 * i], scores[8 * step + 2 * i + 1]);
    }
  }
}

// The 64 rows of one consumer, `group` 0 or 1.
__device__ __forceinline__ void Consume(const PrefillParameters& p, const PrefillTile& tile,
                                        const HopperShared& shared, int group) {
  const int warp = WarpId() % 4;
  const int64_t group_row = tile.row + group * kGroupRows;
  const int64_t row = group_row + 16 * warp + LaneId() / 4;
  const int blocks = tile.Blocks(p, kKeys);
  // Of the group's first row and the thread's first: positions, from the piece's first key.
  const int64_t group_ahead = p.start_position + group_row - p.begin;
  const int64_t ahead = p.start_position + row - p.begin;

  float scores[kKeys / 2], means[kV / 2], max[2], sum[2], keep[2];
  uint32_t weights[kKeys / 16][4];
  const auto score = [&scores](int i) -> float& { return scores[i]; };
  const auto mean = [&means](int i) -> float& { return means[i]; };
  const auto soften = [&](int block) {
    const int first = block * kKeys;
    if (group_ahead < first + kKeys - 1) {
      MaskScores<kKeys>(static_cast<int>(ahead - first), score);
    }
    Exponentials<kKeys>(p.scale_log2, max, sum, keep, score);
  };
  const auto shrink = [&] {
#pragma unroll
    for (int i = 0; i < kV / 2; ++i) means[i] *= keep[i % 4 / 2];
  };

  StartRows<kV>(p, tile.head, row, max, sum, mean);
  const uint64_t queries = KMajorDescriptor(shared.queries + group * kQueryBytes);
  const uint64_t keys = KMajorDescriptor(shared.keys);
  const uint64_t values = MnMajorDescriptor(shared.values, kKeyBoxBytes);
  if (group == 1) NamedBarrierArrive(kTurnBarrier, kTurnThreads);  // group 0 begins

  MbarrierWait(shared.queries_full, 0);
  MbarrierWait(shared.keys_full, 0);
  WgmmaFence(scores);
  IssueScores(queries, keys, scores);
  WgmmaWait<0>(scores);
  ReleaseStage(shared.keys_free);
  soften(0);
  shrink();
  PackWeights(scores, weights);
  for (int block = 1; block < blocks; ++block) {
    const int stage = block % kStages, before = (block - 1) % kStages;
    MbarrierWait(shared.keys_full + stage, static_cast<uint32_t>(block / kStages) & 1u);
    // No wait between the two products: ptxas would fence again. These were copied before the keys.
    MbarrierWait(shared.values_full + before, static_cast<uint32_t>((block - 1) / kStages) & 1u);
    NamedBarrierSync(kTurnBarrier + group, kTurnThreads);
    HoldWeights(weights);
    WgmmaFence(scores, means);
    IssueScores(queries, DescriptorAt(keys, stage * kKeyBytes), scores);
    IssueMeans(weights, DescriptorAt(values, before * kValueBytes), means);
    NamedBarrierArrive(kTurnBarrier + 1 - group, kTurnThreads);
    WgmmaWait<1>(scores);
    ReleaseStage(shared.keys_free + stage);
    soften(block);
    WgmmaWait<0>(means);
    ReleaseStage(shared.values_free + before);
    shrink();
    PackWeights(scores, weights);
  }
  if (group == 0) NamedBarrierSync(kTurnBarrier, kTurnThreads);  // takes the last turn it was given
  const int last = (blocks - 1) % kStages;
  MbarrierWait(shared.values_full + last, static_cast<uint32_t>((blocks - 1) / kStages) & 1u);
  HoldWeights(weights);
  WgmmaFence(means);
  IssueMeans(weights, DescriptorAt(values, last * kValueBytes), means);
  WgmmaWait<0>(means);
  EndRows<kV>(p, tile, row, max, sum, mean);
}

#endif  // sm_90a or emulated

__global__ void __launch_bounds__(kThreads, 1)
    HopperPrefillKernel(const __grid_constant__ HopperPrefillMaps maps, int box_rows,
                        PrefillParameters p) {
#if defined(TANDEM_SM90A) || !defined(__CUDACC__)
  const PrefillTile tile(p);
  if (tile.IsDone()) return;
  const HopperShared shared = CarveShared();
  StartBarriers(shared);
  if (WarpgroupId() == 0) {
    GiveRegisters<kProducerRegisters>();
    if (threadIdx.x == 0) Produce(maps, box_rows, p, tile, shared);
  } else {
    TakeRegisters<kConsumerRegisters>();
    Consume(p, tile, shared, WarpgroupId() - 1);
  }
#else
  __trap();
#endif
}

// [heads, tokens, columns] of a piece, a box of 128 tokens by 64 columns of one head.
TensorMap MapOfHeads(const void* base, const PrefillPiece& piece, int64_t columns) {
  return MakeTensorMap({.base = base,
                        .rank = 3,
                        .sizes = {columns, piece.tokens, piece.heads},
                        .strides_bytes = {2 * columns, 2 * columns * piece.tokens},
                        .box = {kBoxColumns, kKeys, 1},
                        .swizzle_128 = true});
}

HopperPrefillMaps MapsOf(const PrefillPiece& piece, uint32_t box_rows) {
  const MlaPrefillArgs& args = *piece.args;
  const int64_t heads = args.shape.heads, key = args.shape.key();
  return {MakeTensorMap({.base = args.q,
                         .rank = 3,
                         .sizes = {kQk, heads, args.rows},
                         .strides_bytes = {2 * kQk, 2 * kQk * heads},
                         .box = {kBoxColumns, 1, box_rows},
                         .swizzle_128 = true}),
          MapOfHeads(piece.keys, piece, kNope),
          MakeTensorMap({.base = piece.latents,
                         .sizes = {key, piece.tokens},
                         .strides_bytes = {2 * key},
                         .box = {kBoxColumns, kKeys},
                         .swizzle_128 = true}),
          MapOfHeads(piece.values, piece, kV)};
}

}  // namespace

bool HasHopperPrefill(const MlaShape& shape) {
  return shape.nope == kNope && shape.rope == kRope && shape.v == kV && shape.latent % 8 == 0;
}

void HopperPrefillPiece(const PrefillPiece& piece, Stream stream) {
  TANDEM_CHECK(HasHopperPrefill(piece.args->shape));
  const PrefillParameters p = ParametersOf(piece);
  const auto box_rows = static_cast<int>(std::min<int64_t>(kGroupRows, p.rows));
  const dim3 grid(static_cast<unsigned>(piece.heads), static_cast<unsigned>(p.tiles));
  Launch(HopperPrefillKernel, grid, kThreads, kHopperSharedBytes, stream,
         MapsOf(piece, static_cast<uint32_t>(box_rows)), box_rows, p);
}

}  // namespace tandem::gpu_worker::cuda
