// Few rows: what takes the time is reading the weights. A cluster of `splits` blocks makes 64 rows
// of 256 outputs, each block from its own part of the inputs, so that narrow layers, too, keep all
// multiprocessors reading. 256 outputs: 8 KB of inputs come with 32 KB of weights; with 128 they
// would be half as many again, and L2 cannot deliver that as fast as memory does the weights. The
// blocks' totals meet in shared memory: each block gets a share of the outputs from all of them,
// adds it up in order of the parts and stores it.
#include <algorithm>

#include "gpu_worker/backend/cuda/kernels/linear/hopper_fp8_kernel.h"
#include "gpu_worker/backend/cuda/simt/hopper_cluster.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda::hopper_fp8 {
namespace {

constexpr int kHalves = 2;  // math warpgroups, 128 outputs each
constexpr int kTileColumns = kHalves * kColumns;
constexpr int kMathThreads = kHalves * kWarpgroupThreads;
constexpr int kMathWarps = kHalves * kWarpsOfWarpgroup;
constexpr int kThreads = kMathThreads + kWarpgroupThreads;  // one thread of the last one copies
constexpr int kMathRegisters = 232, kCopyRegisters = 40;
// 40 KB each, 128 KB of weights on their way: on 112 multiprocessors 14 MB, where 4.3 TB/s times
// 1 us of latency under load are 4.3 MB. What is left of 227 KB holds the totals.
constexpr int kStages = 4;
constexpr int kStageBytes = kBytesOfX + kHalves * kBytesOfW;
constexpr int kFours = kSums / 4;  // of a thread
constexpr int kTotalsBytes = kMathThreads * kSums * 4;
constexpr int kMbarriers = 2 * kStages + 2;
constexpr size_t kSharedBytes = kStages * kStageBytes + kTotalsBytes + kMbarriers * 8;
static_assert(kSharedBytes <= 227 << 10);

struct Shared {
  unsigned char* x;  // [stages] x [64, 128] e4m3, swizzled
  unsigned char* w;  // [stages] x [halves] x [8 bands] x [outputs, 16] e4m3
  // [part of the inputs][half][share of a thread's fours][thread of the warpgroup]
  Words4* totals;
  uint64_t* full;  // [stages]: the copies have come
  uint64_t* free;  // [stages]: all warps have multiplied
  uint64_t* come;  // all warps of the cluster have stored their totals
  uint64_t* gone;  // ... have read them
};

__device__ __forceinline__ Shared Carve() {
  Shared s;
  s.x = SharedMemory();
  s.w = s.x + kStages * kBytesOfX;
  s.totals = reinterpret_cast<Words4*>(s.w + kStages * kHalves * kBytesOfW);
  s.full = reinterpret_cast<uint64_t*>(reinterpret_cast<unsigned char*>(s.totals) + kTotalsBytes);
  s.free = s.full + kStages;
  s.come = s.free + kStages;
  s.gone = s.come + 1;
  return s;
}

// Tiles of the same weights one after another: they run at the same time, and all but the first
// find the weights in L2.
__device__ __forceinline__ Tile TileOf(const Product& p, int index) {
  const int rows = CountOf(p.rows, kTileRows), columns = CountOf(p.outputs, kTileColumns);
  return {index % rows * kTileRows, index / rows % columns * kTileColumns, index / rows / columns};
}

__device__ __forceinline__ int HalvesOf(const Product& p, const Tile& tile) {
  return p.outputs - tile.column > kColumns ? 2 : 1;
}

template <CacheHint kHint>
__device__ __forceinline__ void CopyWeights(const TensorMap& w_map, const Tile& tile, int halves,
                                            int block, unsigned char* to, uint64_t* full) {
  for (int half = 0; half < halves; ++half) {
    const int column = tile.column + half * kColumns;
    TmaLoad3d<kHint>(to + half * kBytesOfW, w_map, column * 2, block * kBands, tile.matrix, full);
  }
}

// One thread brings run after run of inputs and weights, tile after tile.
__device__ __forceinline__ void Produce(const TensorMap& x_map, const TensorMap& w_map,
                                        const Product& p, const Shared& s, int first, int step,
                                        int tiles) {
  const int begin = SplitBegin(p, ClusterRank()), end = SplitBegin(p, ClusterRank() + 1);
  const bool once = p.rows <= kTileRows;  // no other tile reads these weights
  RingTurn<kStages> turn;
  for (int index = first; index < tiles; index += step) {
    const Tile tile = TileOf(p, index);
    const int halves = HalvesOf(p, tile);
    const int bytes = (p.box_rows + halves * p.box_outputs) * kInputs;
    for (int block = begin; block < end; ++block, turn.Next()) {
      uint64_t* const full = s.full + turn.stage;
      unsigned char* const w = s.w + turn.stage * kHalves * kBytesOfW;
      MbarrierWait(s.free + turn.stage, turn.parity ^ 1u);  // stages are free at first
      MbarrierArriveExpect(full, static_cast<uint32_t>(bytes));
      if (once) {
        CopyWeights<CacheHint::kOnce>(w_map, tile, halves, block, w, full);
      } else {
        CopyWeights<CacheHint::kNormal>(w_map, tile, halves, block, w, full);
      }
      TmaLoad3d(s.x + turn.stage * kBytesOfX, x_map, block * kInputs, tile.row, tile.matrix, full);
    }
  }
}

struct Stages {
  const Shared& s;
  RingTurn<kStages> turn;

  __device__ __forceinline__ void Wait() { MbarrierWait(s.full + turn.stage, turn.parity); }
  __device__ __forceinline__ const unsigned char* X() const { return s.x + turn.stage * kBytesOfX; }
  __device__ __forceinline__ const unsigned char* W() const {
    return s.w + (turn.stage * kHalves + WarpgroupId()) * kBytesOfW;
  }
  __device__ __forceinline__ void Release() {
    if (LaneId() == 0) MbarrierArrive(s.free + turn.stage);
    turn.Next();
  }
};

// Where a thread's four number `four` of part `split` lies in the totals of the block that stores
// it: each block stores kFours / splits of a thread's fours.
__device__ __forceinline__ int PlaceOfTotal(const Product& p, int split, int four) {
  const int share = kFours / p.splits;
  return ((split * kHalves + WarpgroupId()) * share + four % share) * kWarpgroupThreads +
         static_cast<int>(threadIdx.x) % kWarpgroupThreads;
}

// Gives each block of the cluster its share of this block's totals. has_sums: any that count.
__device__ __forceinline__ void HandOut(const Product& p, const Shared& s, bool has_sums,
                                        const float (&total)[kSums]) {
  if (has_sums) {
#pragma unroll
    for (int four = 0; four < kFours; ++four) {
      Words4 words;
#pragma unroll
      for (int i = 0; i < 4; ++i) words.w[i] = __float_as_uint(total[4 * four + i]);
      Store16At(s.totals + PlaceOfTotal(p, ClusterRank(), four), four * p.splits / kFours, words);
    }
  }
  FenceCluster();
  __syncwarp();
  if (LaneId() < p.splits) MbarrierArriveAt(s.come, LaneId());
}

// Adds up this block's share and stores it.
__device__ __forceinline__ void AddAndStore(const Product& p, const Shared& s, bool has_sums,
                                            int matrix, int low_row, int column) {
  const int share = kFours / p.splits, first = ClusterRank() * share;
  for (int four = first; has_sums && four < first + share; ++four) {
    float sum[4] = {};
    for (int split = 0; split < p.splits; ++split) {
      const Words4 total = s.totals[PlaceOfTotal(p, split, four)];
#pragma unroll
      for (int i = 0; i < 4; ++i) sum[i] += __uint_as_float(total.w[i]);
    }
    StoreFour(p, matrix, low_row, column + 8 * four, sum);
  }
  __syncwarp();
  if (LaneId() < p.splits) MbarrierArriveAt(s.gone, LaneId());
}

__device__ __forceinline__ void Consume(const Product& p, const Shared& s, int first, int step,
                                        int tiles) {
  const int begin = SplitBegin(p, ClusterRank()), end = SplitBegin(p, ClusterRank() + 1);
  const uint32_t k_stride = static_cast<uint32_t>(p.box_outputs * kBandBytes);
  const int warp_row = WarpId() % kWarpsOfWarpgroup * 16;
  Stages stages = {s, {}};
  uint32_t parity = 0;  // of the totals' mbarriers
  bool met = false;
  for (int index = first; index < tiles; index += step, parity ^= 1u) {
    Tile tile = TileOf(p, index);
    const bool has_columns = WarpgroupId() < HalvesOf(p, tile);
    const bool has_sums = has_columns && tile.row + warp_row < p.rows;
    const int low_row = tile.row + warp_row + LaneId() / 4;
    tile.column += WarpgroupId() * kColumns;
    float total[kSums];
    if (has_columns) {
      AddRuns<kColumns>(begin, end, k_stride, ScalesOf(p, tile, low_row), stages, total);
    } else {
      for (int block = begin; block < end; ++block) {
        stages.Wait();
        __syncwarp();  // no lane may miss a phase
        stages.Release();
      }
    }
    const int column = tile.column + LaneId() % 4 * 2;
    if (p.splits == 1) {
#pragma unroll
      for (int four = 0; has_columns && four < kFours; ++four) {
        const float sum[4] = {0.0f + total[4 * four], 0.0f + total[4 * four + 1],
                              0.0f + total[4 * four + 2], 0.0f + total[4 * four + 3]};
        StoreFour(p, tile.matrix, low_row, column + 8 * four, sum);
      }
      continue;
    }
    if (!met) ClusterWait();  // the other blocks have their mbarriers
    met = true;
    MbarrierWaitCluster(s.gone, parity ^ 1u);
    HandOut(p, s, has_sums, total);
    MbarrierWaitCluster(s.come, parity);
    AddAndStore(p, s, has_sums, tile.matrix, low_row, column);
  }
  if (!met) ClusterWait();
}

__global__ void __launch_bounds__(kThreads, 1)
    HopperFp8FewRowsKernel(const __grid_constant__ TensorMap x_map,
                           const __grid_constant__ TensorMap w_map, Product p, int tiles) {
  const Shared s = Carve();
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      MbarrierInit(s.full + i, 1);
      MbarrierInit(s.free + i, kMathWarps);
    }
    MbarrierInit(s.come, static_cast<uint32_t>(p.splits * kMathWarps));
    MbarrierInit(s.gone, static_cast<uint32_t>(p.splits * kMathWarps));
    MbarrierFenceInit();
  }
  __syncthreads();
  ClusterArrive();  // nobody waits before the first totals are there: copies begin at once
  const int first = static_cast<int>(blockIdx.x) / p.splits;
  const int step = static_cast<int>(gridDim.x) / p.splits;
  if (WarpgroupId() == kHalves) {
    GiveRegisters<kCopyRegisters>();
    if (threadIdx.x == kMathThreads) Produce(x_map, w_map, p, s, first, step, tiles);
    __syncwarp();
    ClusterWait();
  } else {
    TakeRegisters<kMathRegisters>();
    Consume(p, s, first, step, tiles);
  }
  ClusterArrive();
  ClusterWait();
}

}  // namespace

int FewRowsTiles(const Product& p) {
  return CountOf(p.rows, kTileRows) * CountOf(p.outputs, kTileColumns) * p.batch;
}

void LaunchFewRows(const TensorMap& x_map, const TensorMap& w_map, const Product& p, int clusters,
                   Stream stream) {
  TANDEM_CHECK(kFours % p.splits == 0 && p.splits <= kClusterBlocksMax && p.blocks >= p.splits);
  const int at_once = ClustersAtOnce(HopperFp8FewRowsKernel, p.splits, kThreads, kSharedBytes);
  const int launched = std::min(clusters, at_once);
  LaunchClusters(HopperFp8FewRowsKernel, p.splits, static_cast<unsigned>(launched * p.splits),
                 kThreads, kSharedBytes, stream, x_map, w_map, p, FewRowsTiles(p));
}

}  // namespace tandem::gpu_worker::cuda::hopper_fp8
