// Many rows: what takes the time is the tensor cores' work, as long as L2 keeps up. A block makes
// 128 rows of 128 outputs: at the tensor cores' full speed that takes 32 KB per 512 cycles, 64
// bytes a cycle, more than L2 delivers to all multiprocessors at once (some 40). So blocks are
// paired in clusters, one below the other: each brings half of the weights to both, 48 bytes a
// cycle. Blocks stay and walk over the tiles in an order that keeps those under way close to a
// square: 2048 rows by some 8 columns of tiles.
//
// Two warpgroups multiply, 64 rows each, a third one copies: one's promotion of sums out of the
// tensor cores (128 x 64 multiplications and additions, 64 cycles) hides behind the other's
// products (256 cycles). The copies run ahead into the next tile while sums are stored.
#include <algorithm>

#include "gpu_worker/backend/cuda/kernels/linear/hopper_fp8_kernel.h"
#include "gpu_worker/backend/cuda/simt/hopper_cluster.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda::hopper_fp8 {
namespace {

constexpr int kMath = 2;  // warpgroups that multiply, one below the other
constexpr int kMathWarps = kMath * kWarpsOfWarpgroup;
constexpr int kThreads = (kMath + 1) * kWarpgroupThreads;
// 3 x 64 sums and what a loop needs; with 24 for the copying warpgroup 64,512 of 65,536.
constexpr int kMathRegisters = 240, kCopyRegisters = 24;
constexpr int kStages = 6;
constexpr int kBytesOfRows = kMath * kBytesOfX;
constexpr int kStageBytes = kBytesOfRows + kBytesOfW;
constexpr int kBoxBytesOfY = kTileRows * kBoxColumnsOfY * 2;
constexpr int kBytesOfY = 2 * kBoxBytesOfY;  // of a warpgroup
constexpr size_t kSharedBytes = kStages * kStageBytes + kMath * kBytesOfY + 2 * kStages * 8;
static_assert(kSharedBytes <= 227 << 10);
// Pairs of row tiles that are walked over before the next outputs.
constexpr int kPairsAtOnce = 8;
constexpr int kBandsOfBlock = kBands / kSharing;

struct Shared {
  unsigned char* x;  // [stages] x [128, 128] e4m3, swizzled
  unsigned char* w;  // [stages] x [8 bands] x [outputs, 16] e4m3
  unsigned char* y;  // [warpgroups] x [2] x [64, 64] bf16, swizzled
  uint64_t* full;    // [stages]: the copies have come, the other block's too
  uint64_t* free;    // [stages]: all warps of both blocks have multiplied
};

__device__ __forceinline__ Shared Carve() {
  Shared s;
  s.x = SharedMemory();
  s.w = s.x + kStages * kBytesOfRows;
  s.y = s.w + kStages * kBytesOfW;
  s.full = reinterpret_cast<uint64_t*>(s.y + kMath * kBytesOfY);
  s.free = s.full + kStages;
  return s;
}

// This block's tile of the cluster's tile `index`: kPairsAtOnce pairs of row tiles, column after
// column, then the next pairs. It may lie behind the last row.
__device__ __forceinline__ Tile TileOf(const Product& p, int index) {
  const int pairs = CountOf(p.rows, kSharing * kManyTileRows);
  const int columns = CountOf(p.outputs, kColumns);
  const int matrix = index / (pairs * columns), in_matrix = index % (pairs * columns);
  const int group = in_matrix / (kPairsAtOnce * columns) * kPairsAtOnce;
  const int of_group = pairs - group < kPairsAtOnce ? pairs - group : kPairsAtOnce;
  const int in_group = in_matrix % (kPairsAtOnce * columns);
  const int pair = group + in_group % of_group;
  return {(pair * kSharing + ClusterRank()) * kManyTileRows, in_group / of_group * kColumns,
          matrix};
}

// One thread brings run after run: its own rows' inputs, and a share of the weights to both blocks.
__device__ __forceinline__ void Produce(const TensorMap& x_map, const TensorMap& w_map,
                                        const Product& p, const Shared& s, int first, int step,
                                        int tiles) {
  const int bands = ClusterRank() * kBandsOfBlock;
  const int w_offset = bands * p.box_outputs * kBandBytes;
  const auto bytes = static_cast<uint32_t>((p.box_rows + p.box_outputs) * kInputs);
  Turn<kStages> turn;
  for (int index = first; index < tiles; index += step) {
    const Tile tile = TileOf(p, index);
    const int row = tile.row, column = tile.column;
    const int matrix = tile.matrix;
    for (int block = 0; block < p.blocks; ++block, turn.Next()) {
      uint64_t* const full = s.full + turn.stage;
      MbarrierWaitCluster(s.free + turn.stage, turn.parity ^ 1u);  // stages are free at first
      MbarrierArriveExpect(full, bytes);
      TmaLoad3d(s.x + turn.stage * kBytesOfRows, x_map, block * kInputs, row, matrix, full);
      TmaLoad3dToAll(s.w + turn.stage * kBytesOfW + w_offset, w_map, column * 2,
                     block * kBands + bands, matrix, full, (1u << kSharing) - 1);
    }
  }
}

struct Stages {
  const Shared& s;
  Turn<kStages> turn;

  __device__ __forceinline__ void Wait() { MbarrierWait(s.full + turn.stage, turn.parity); }
  __device__ __forceinline__ const unsigned char* X() const {
    return s.x + turn.stage * kBytesOfRows + WarpgroupId() * kBytesOfX;
  }
  __device__ __forceinline__ const unsigned char* W() const { return s.w + turn.stage * kBytesOfW; }
  __device__ __forceinline__ void Release() {
    if (LaneId() < kSharing) MbarrierArriveAt(s.free + turn.stage, LaneId());
    turn.Next();
  }
};

// A warpgroup's sums by way of shared memory and TMA, which leaves out what is outside of y. The
// swizzle keeps the eight rows that a warp stores at once in different banks.
__device__ __forceinline__ void StoreBoxes(const TensorMap& y_map, const Product& p,
                                           const Shared& s, int row, int column,
                                           const float (&sum)[kSums]) {
  unsigned char* const boxes = s.y + WarpgroupId() * kBytesOfY;
  const bool leads = threadIdx.x % kWarpgroupThreads == 0;
  const int low = WarpId() % kWarpsOfWarpgroup * 16 + LaneId() / 4;
  if (leads) TmaStoreWait<0>();
  NamedBarrierSync(1 + WarpgroupId(), kWarpgroupThreads);  // the last tile has been read
#pragma unroll
  for (int i = 0; i < kSums; i += 2) {
    const int in_row = i / 4 * 16 + LaneId() % 4 * 4;  // bytes
    const int at = in_row / 128 * kBoxBytesOfY + (low + i % 4 / 2 * 8) * 128 + in_row % 128;
    *reinterpret_cast<uint32_t*>(boxes + Swizzle128(static_cast<uint32_t>(at))) =
        PackBf16x2(sum[i], sum[i + 1]);
  }
  FenceAsyncProxy();
  NamedBarrierSync(1 + WarpgroupId(), kWarpgroupThreads);
  if (!leads) return;
  for (int box = 0; box < 2; ++box) {
    const int at = column + box * kBoxColumnsOfY;
    if (row >= p.rows || at >= p.outputs) continue;
    TmaStore2d(y_map, at, row, boxes + box * kBoxBytesOfY);
  }
  TmaStoreCommit();
}

// A thread's first row of the block's tile.
__device__ __forceinline__ int RowInTile() {
  return WarpgroupId() * kTileRows + WarpId() % kWarpsOfWarpgroup * 16 + LaneId() / 4;
}

__device__ __forceinline__ void AddParts(const Product& p, const Tile& tile, uint32_t k_stride,
                                         Stages& stages, float (&sum)[kSums]) {
  const Scales scales = ScalesOf(p, tile, tile.row + RowInTile());
  float low = scales.Low(0), high = scales.High(0);
  float total[kSums];
  for (int split = 0; split < p.splits; ++split) {
    AddRuns(SplitBegin(p, split), SplitBegin(p, split + 1), p.blocks - 1, k_stride, scales, stages,
            low, high, total);
#pragma unroll
    for (int i = 0; i < kSums; ++i) sum[i] += total[i];
  }
}

__device__ __forceinline__ void Consume(const TensorMap& y_map, const Product& p, const Shared& s,
                                        int first, int step, int tiles) {
  const uint32_t k_stride = static_cast<uint32_t>(p.box_outputs * kBandBytes);
  Stages stages = {s, {}};
  for (int index = first; index < tiles; index += step) {
    float sum[kSums] = {};
    AddParts(p, TileOf(p, index), k_stride, stages, sum);
    Forget(index);
    const Tile tile = TileOf(p, index);
    if (p.y_boxes) {
      StoreBoxes(y_map, p, s, tile.row + WarpgroupId() * kTileRows, tile.column, sum);
      continue;
    }
    const int low_row = tile.row + RowInTile(), column = tile.column + LaneId() % 4 * 2;
#pragma unroll
    for (int i = 0; i < kSums; i += 4) {
      const float four[4] = {sum[i], sum[i + 1], sum[i + 2], sum[i + 3]};
      StoreFour(p, tile.matrix, low_row, column + i * 2, four);
    }
  }
  if (threadIdx.x % kWarpgroupThreads == 0) TmaStoreWait<0>();
}

__global__ void __launch_bounds__(kThreads, 1)
    HopperFp8ManyRowsKernel(const __grid_constant__ TensorMap x_map,
                            const __grid_constant__ TensorMap w_map,
                            const __grid_constant__ TensorMap y_map, Product p, int tiles) {
  const Shared s = Carve();
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      MbarrierInit(s.full + i, 1);
      MbarrierInit(s.free + i, kSharing * kMathWarps);
    }
    MbarrierFenceInit();
  }
  ClusterArrive();
  ClusterWait();  // both blocks have their mbarriers
  const int first = static_cast<int>(blockIdx.x) / kSharing;
  const int step = static_cast<int>(gridDim.x) / kSharing;
  if (WarpgroupId() == kMath) {
    GiveRegisters<kCopyRegisters>();
    if (threadIdx.x == kMath * kWarpgroupThreads) {
      Produce(x_map, w_map, p, s, first, step, tiles);
    }
    __syncwarp();
  } else {
    TakeRegisters<kMathRegisters>();
    Consume(y_map, p, s, first, step, tiles);
  }
  // Until the other block has brought its last weights here and released the last stages.
  ClusterArrive();
  ClusterWait();
}

}  // namespace

int ManyRowsTiles(const Product& p) {
  return CountOf(p.rows, kSharing * kManyTileRows) * CountOf(p.outputs, kColumns) * p.batch;
}

void LaunchManyRows(const TensorMap& x_map, const TensorMap& w_map, const TensorMap& y_map,
                    const Product& p, int clusters, Stream stream) {
  const int at_once = ClustersAtOnce(HopperFp8ManyRowsKernel, kSharing, kThreads, kSharedBytes);
  const int launched = std::min(clusters, at_once);
  LaunchClusters(HopperFp8ManyRowsKernel, kSharing, static_cast<unsigned>(launched * kSharing),
                 kThreads, kSharedBytes, stream, x_map, w_map, y_map, p, ManyRowsTiles(p));
}

}  // namespace tandem::gpu_worker::cuda::hopper_fp8
