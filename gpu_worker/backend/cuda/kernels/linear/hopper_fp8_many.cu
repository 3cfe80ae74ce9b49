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
constexpr int kNarrowColumns = kColumns / 2;
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

// What a cluster does at a time: a unit, which is 256 rows of a column of 128 outputs, or, where
// the last column has no more than 64, twice 256 rows of that, with products of half the width:
// about the same time. Places are twice the number of a unit, and one more for the second 256 rows.
struct Units {
  int pairs;         // of row tiles, one below the other
  int columns;       // of 128 outputs
  int narrow_units;  // of the last column
  int of_matrix;

  __host__ __device__ __forceinline__ Units(int rows, int outputs) {
    pairs = CountOf(rows, kSharing * kManyTileRows);
    columns = (outputs + kNarrowColumns - 1) / kColumns;
    narrow_units = columns * kColumns < outputs ? CountOf(pairs, 2) : 0;
    of_matrix = pairs * columns + narrow_units;
  }
};

__device__ __forceinline__ Units UnitsOf(const Product& p) {
  int rows = p.rows, outputs = p.outputs;
  Forget(rows);
  Forget(outputs);
  return {rows, outputs};
}

// This block's tile: kPairsAtOnce pairs of row tiles, column after column, then the next pairs; the
// last column, where it is narrow, at the end. It may lie behind the last row.
__device__ __forceinline__ Tile TileOf(const Product& p, int place) {
  const Units units = UnitsOf(p);
  const int matrix = place / 2 / units.of_matrix, unit = place / 2 % units.of_matrix;
  int pair = (unit - units.pairs * units.columns) * 2 + place % 2, column = units.columns;
  if (pair < 0) {
    const int group = unit / (kPairsAtOnce * units.columns) * kPairsAtOnce;
    const int left = units.pairs - group, of_group = left < kPairsAtOnce ? left : kPairsAtOnce;
    const int in_group = unit % (kPairsAtOnce * units.columns);
    pair = group + in_group % of_group;
    column = in_group / of_group;
  }
  return {(pair * kSharing + ClusterRank()) * kManyTileRows, column * kColumns, matrix};
}

__device__ __forceinline__ bool IsNarrow(const Product& p, const Tile& tile) {
  return p.outputs - tile.column <= kNarrowColumns;
}

// The place after this one of a cluster that does every step-th unit.
__device__ __forceinline__ int NextPlace(const Product& p, int place, int step) {
  const Units units = UnitsOf(p);
  const int pair = (place / 2 % units.of_matrix - units.pairs * units.columns) * 2;
  const bool second = place % 2 == 0 && pair >= 0 && pair + 1 < units.pairs;
  return second ? place + 1 : (place / 2 + step) * 2;
}

// One thread brings run after run: its own rows' inputs, and a share of the weights to both blocks.
__device__ __forceinline__ void Produce(const TensorMap& x_map, const TensorMap& w_map,
                                        const Product& p, const Shared& s, int first, int step,
                                        int units) {
  const int bands = ClusterRank() * kBandsOfBlock;
  const int w_offset = bands * p.box_outputs * kBandBytes;
  const auto bytes = static_cast<uint32_t>((p.box_rows + p.box_outputs) * kInputs);
  RingTurn<kStages> turn;
  for (int place = 2 * first; place < 2 * units; place = NextPlace(p, place, step)) {
    const Tile tile = TileOf(p, place);
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
  RingTurn<kStages> turn;

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
  int thread = static_cast<int>(threadIdx.x);
  Forget(thread);
  const int warpgroup = thread / kWarpgroupThreads, lane = thread % kWarpThreads;
  unsigned char* const boxes = s.y + warpgroup * kBytesOfY;
  const bool leads = thread % kWarpgroupThreads == 0;
  const int low = thread % kWarpgroupThreads / kWarpThreads * 16 + lane / 4;
  if (leads) TmaStoreWait<0>();
  NamedBarrierSync(1 + warpgroup, kWarpgroupThreads);  // the last tile has been read
#pragma unroll
  for (int i = 0; i < kSums; i += 2) {
    const int in_row = i / 4 * 16 + lane % 4 * 4;  // bytes
    const int at = in_row / 128 * kBoxBytesOfY + (low + i % 4 / 2 * 8) * 128 + in_row % 128;
    *reinterpret_cast<uint32_t*>(boxes + Swizzle128(static_cast<uint32_t>(at))) =
        PackBf16x2(sum[i], sum[i + 1]);
  }
  FenceAsyncProxy();
  NamedBarrierSync(1 + warpgroup, kWarpgroupThreads);
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

// sum = the tile's first kN outputs, part by part.
template <int kN>
__device__ __forceinline__ void AddParts(const Product& p, const Tile& tile, uint32_t k_stride,
                                         Stages& stages, float (&sum)[kSums]) {
  const Scales scales = ScalesOf(p, tile, tile.row + RowInTile());
  float total[kN / 2];
  for (int split = 0; split < p.splits; ++split) {
    AddRuns<kN>(SplitBegin(p, split), SplitBegin(p, split + 1), k_stride, scales, stages, total);
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) sum[i] += total[i];
  }
}

__device__ __forceinline__ void Consume(const TensorMap& y_map, const Product& p, const Shared& s,
                                        int first, int step, int units) {
  const uint32_t k_stride = static_cast<uint32_t>(p.box_outputs * kBandBytes);
  Stages stages = {s, {}};
  for (int place = 2 * first; place < 2 * units; place = NextPlace(p, place, step)) {
    float sum[kSums] = {};
    const Tile begun = TileOf(p, place);
    if (IsNarrow(p, begun)) {
      AddParts<kNarrowColumns>(p, begun, k_stride, stages, sum);
    } else {
      AddParts<kColumns>(p, begun, k_stride, stages, sum);
    }
    Forget(place);
    const Tile tile = TileOf(p, place);
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
                            const __grid_constant__ TensorMap y_map, Product p, int units) {
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
      Produce(x_map, w_map, p, s, first, step, units);
    }
    __syncwarp();
  } else {
    TakeRegisters<kMathRegisters>();
    Consume(y_map, p, s, first, step, units);
  }
  // Until the other block has brought its last weights here and released the last stages.
  ClusterArrive();
  ClusterWait();
}

}  // namespace

int ManyRowsUnits(const Product& p) { return Units(p.rows, p.outputs).of_matrix * p.batch; }

void LaunchManyRows(const TensorMap& x_map, const TensorMap& w_map, const TensorMap& y_map,
                    const Product& p, int clusters, Stream stream) {
  const int at_once = ClustersAtOnce(HopperFp8ManyRowsKernel, kSharing, kThreads, kSharedBytes);
  const int launched = std::min(clusters, at_once);
  LaunchClusters(HopperFp8ManyRowsKernel, kSharing, static_cast<unsigned>(launched * kSharing),
                 kThreads, kSharedBytes, stream, x_map, w_map, y_map, p, ManyRowsUnits(p));
}

}  // namespace tandem::gpu_worker::cuda::hopper_fp8
