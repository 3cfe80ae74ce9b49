#include "gpu_worker/backend/cuda/simt/hopper_cluster.h"
#include "gpu_worker/backend/cuda/simt/hopper_test_kernels.h"
#include "gpu_worker/backend/cuda/simt/hopper_wgmma.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda::language_test {
namespace {

constexpr int kBoxColumns = 64;
constexpr int kRowBytes = 128;
constexpr int kReachBoxBytes = 8 * kRowBytes;

// One mbarrier at `barrier`, known to all threads and to the copy engine.
__device__ __forceinline__ void OneBarrier(uint64_t* barrier) {
  if (threadIdx.x == 0) {
    MbarrierInit(barrier, 1);
    MbarrierFenceInit();
  }
  __syncthreads();
}

__global__ void LoadSwizzledBoxKernel(const __grid_constant__ TensorMap map, int rows, int x, int y,
                                      uint16_t* out) {
  unsigned char* const box = SharedMemory();
  auto* const barrier = reinterpret_cast<uint64_t*>(box + rows * kRowBytes);
  OneBarrier(barrier);
  if (threadIdx.x == 0) {
    PrefetchTensorMap(map);
    MbarrierArriveExpect(barrier, static_cast<uint32_t>(rows * kRowBytes));
    TmaLoad2d<CacheHint::kOnce>(box, map, x, y, barrier);
  }
  MbarrierWait(barrier, 0);
  for (int i = static_cast<int>(threadIdx.x); i < rows * kBoxColumns; i += 64) {
    out[i] = *reinterpret_cast<const uint16_t*>(box + Swizzle128(2 * static_cast<uint32_t>(i)));
  }
}

__global__ void LoadBox3dKernel(const __grid_constant__ TensorMap map, int values, int x, int y,
                                int z, float* out) {
  auto* const box = reinterpret_cast<float*>(SharedMemory());
  auto* const barrier = reinterpret_cast<uint64_t*>(box + values);
  OneBarrier(barrier);
  if (threadIdx.x == 0) {
    MbarrierArriveExpect(barrier, static_cast<uint32_t>(values * 4));
    TmaLoad3d(box, map, x, y, z, barrier);
  }
  MbarrierWait(barrier, 0);
  for (int i = static_cast<int>(threadIdx.x); i < values; i += 64) out[i] = box[i];
}

__global__ void LoadInARowKernel(const float* in, float* out, int count) {
  auto* const row = reinterpret_cast<float*>(SharedMemory());
  auto* const barrier = reinterpret_cast<uint64_t*>(row + count);
  OneBarrier(barrier);
  if (threadIdx.x == 0) {
    MbarrierArriveExpect(barrier, static_cast<uint32_t>(count * 4));
    BulkLoad(row, in, static_cast<uint32_t>(count * 4), barrier);
  }
  MbarrierWait(barrier, 0);
  for (int i = static_cast<int>(threadIdx.x); i < count; i += 64) out[i] = row[count - 1 - i];
}

__global__ void StoreSwizzledBoxKernel(const __grid_constant__ TensorMap map, int rows, int x,
                                       int y) {
  unsigned char* const box = SharedMemory();
  for (int i = static_cast<int>(threadIdx.x); i < rows * kBoxColumns; i += 64) {
    *reinterpret_cast<uint16_t*>(box + Swizzle128(2 * static_cast<uint32_t>(i))) =
        ToBf16(static_cast<float>(i));
  }
  FenceAsyncProxy();
  __syncthreads();
  if (threadIdx.x == 0) {
    TmaStore2d(map, x, y, box);
    TmaStoreCommit();
    TmaStoreWait<0>();
  }
}

// Warp 0 produces, warps 1 and 2 consume: an mbarrier "full" and one "free" for each stage.
__global__ void RingKernel(const __grid_constant__ TensorMap map, int boxes, int stages,
                           float* sums) {
  constexpr int kBoxBytes = 64 * kRowBytes;
  unsigned char* const ring = SharedMemory();
  auto* const full = reinterpret_cast<uint64_t*>(ring + stages * kBoxBytes);
  uint64_t* const free = full + stages;
  if (threadIdx.x == 0) {
    for (int s = 0; s < stages; ++s) {
      MbarrierInit(full + s, 1);
      MbarrierInit(free + s, 64);
    }
    MbarrierFenceInit();
  }
  __syncthreads();
  if (WarpId() == 0) {
    for (int i = 0; i < boxes && LaneId() == 0; ++i) {
      const int s = i % stages;
      MbarrierWait(free + s, static_cast<uint32_t>(i / stages + 1) & 1u);
      MbarrierArriveExpect(full + s, kBoxBytes);
      TmaLoad2d(ring + s * kBoxBytes, map, 0, 64 * i, full + s);
    }
    return;
  }
  const int row = static_cast<int>(threadIdx.x) - kWarpThreads;
  float sum = 0;
  for (int i = 0; i < boxes; ++i) {
    const int s = i % stages;
    MbarrierWait(full + s, static_cast<uint32_t>(i / stages) & 1u);
    for (int c = 0; c < kBoxColumns; ++c) {
      sum += FromBf16(*reinterpret_cast<const uint16_t*>(
          ring + s * kBoxBytes + Swizzle128(static_cast<uint32_t>(row * kRowBytes + 2 * c))));
    }
    MbarrierArrive(free + s);
  }
  sums[row] = sum;
}

__global__ void PingPongKernel(int* order) {
  int* const word = reinterpret_cast<int*>(SharedMemory());
  if (WarpId() == 0) {
    if (LaneId() == 0) *word = 1;
    NamedBarrierArrive(1, 64);
    NamedBarrierSync(2, 64);
    if (LaneId() == 0) order[1] = *word;
  } else {
    NamedBarrierSync(1, 64);
    if (LaneId() == 0) {
      order[0] = *word;
      *word = 2;
    }
    NamedBarrierArrive(2, 64);
  }
}

enum class Operands { kShared, kRegisters, kTransposed, kRegistersTransposed, kE4m3 };

constexpr bool FromRegisters(Operands o) {
  return o == Operands::kRegisters || o == Operands::kRegistersTransposed;
}
constexpr bool Transposed(Operands o) {
  return o == Operands::kTransposed || o == Operands::kRegistersTransposed;
}

constexpr int kBlockBytes = 64 * kRowBytes;  // A; B: n / 64 of them, at least a half

// The words of A's k step that this thread holds, read from the swizzled tile.
__device__ __forceinline__ void ReadA(const unsigned char* tile, int step, uint32_t (&a)[4]) {
  const int thread = static_cast<int>(threadIdx.x) % kWarpgroupThreads;
  const int row = thread / 32 * 16 + thread % 32 / 4, t = thread % 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int at = (row + i % 2 * 8) * kRowBytes + step * 32 + i / 2 * 16 + 4 * t;
    a[i] = *reinterpret_cast<const uint32_t*>(tile + Swizzle128(static_cast<uint32_t>(at)));
  }
}

template <int kN, Operands kOperands>
__device__ __forceinline__ void MultiplySteps(unsigned char* a, unsigned char* b,
                                              float (&d)[kN / 2]) {
  constexpr uint32_t kStepOfB = Transposed(kOperands) ? kMnMajorStepBytes : kKMajorStepBytes;
  const uint64_t of_a = KMajorDescriptor(a);
  const uint64_t of_b =
      Transposed(kOperands) ? MnMajorDescriptor(b, kBlockBytes) : KMajorDescriptor(b);
  uint32_t words[4][4];
  if constexpr (FromRegisters(kOperands)) {
    for (int step = 0; step < 4; ++step) ReadA(a, step, words[step]);
  }
  WgmmaFence(d);
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    const uint64_t right = DescriptorAt(of_b, step * kStepOfB);
    const uint64_t left = DescriptorAt(of_a, step * kKMajorStepBytes);
    if constexpr (kOperands == Operands::kE4m3) {
      WgmmaE4m3<kN>(d, left, right, step > 0);
    } else if constexpr (FromRegisters(kOperands)) {
      WgmmaBf16<kN, Transposed(kOperands)>(d, words[step], right, step > 0);
    } else {
      WgmmaBf16<kN, Transposed(kOperands)>(d, left, right, step > 0);
    }
  }
  WgmmaCommit();
  WgmmaWait<0>(d);
}

// Two warps a block.
__global__ void __launch_bounds__(64)
    ReachOtherBlocksKernel(const __grid_constant__ TensorMap map, int blocks, uint16_t* out,
                           uint32_t* words) {
  unsigned char* const boxes = SharedMemory();
  const int bytes = blocks * kReachBoxBytes, rank = ClusterRank();
  const int thread = static_cast<int>(threadIdx.x);
  auto* const given = reinterpret_cast<Words4*>(boxes + bytes);
  auto* const come = reinterpret_cast<uint64_t*>(given + blocks);
  uint64_t *const stored = come + 1, *const free = come + 2;
  if (thread == 0) {
    MbarrierInit(come, 1);
    MbarrierInit(stored, static_cast<uint32_t>(blocks));
    MbarrierInit(free, static_cast<uint32_t>(2 * blocks));
    MbarrierFenceInit();
  }
  ClusterArrive();
  ClusterWait();
  for (uint32_t round = 0; round < 2; ++round) {
    MbarrierWaitCluster(free, (round & 1) ^ 1);
    if (thread == 0) {
      MbarrierArriveExpect(come, static_cast<uint32_t>(bytes));
      TmaLoad3dToAll(boxes + rank * kReachBoxBytes, map, 0, 8 * rank, 0, come, (1u << blocks) - 1);
    }
    if (thread < blocks) {
      const Words4 mine = {{static_cast<uint32_t>(rank), static_cast<uint32_t>(thread), round, 0}};
      Store16At(given + rank, thread, mine);
    }
    FenceCluster();
    __syncwarp();
    if (thread < blocks) MbarrierArriveAt(stored, thread);
    MbarrierWait(come, round & 1);
    MbarrierWaitCluster(stored, round & 1);
    for (int i = thread; i < bytes / 2; i += 64) {
      out[rank * (bytes / 2) + i] = reinterpret_cast<const uint16_t*>(boxes)[i];
    }
    if (thread < blocks) {
      for (int w = 0; w < 4; ++w) words[(rank * blocks + thread) * 4 + w] = given[thread].w[w];
    }
    __syncwarp();
    if (LaneId() < blocks) MbarrierArriveAt(free, LaneId());
  }
  ClusterArrive();
  ClusterWait();
}

// Two warpgroups: the second loads and gives its registers away.
template <int kN, Operands kOperands>
__global__ void __launch_bounds__(256, 1)
    ProductKernel(const __grid_constant__ TensorMap a_map, const __grid_constant__ TensorMap b_map,
                  float* out) {
  constexpr int kBytesOfB = kN * kRowBytes;
  unsigned char* const a = SharedMemory();
  unsigned char* const b = a + kBlockBytes;
  auto* const barrier = reinterpret_cast<uint64_t*>(b + kBytesOfB);
  OneBarrier(barrier);
  if (WarpgroupId() == 1) {
    GiveRegisters<40>();
    if (threadIdx.x == kWarpgroupThreads) {
      MbarrierArriveExpect(barrier, kBlockBytes + kBytesOfB);
      TmaLoad2d(a, a_map, 0, 0, barrier);
      if constexpr (Transposed(kOperands)) {
        for (int n = 0; n < kN; n += 64) TmaLoad2d(b + n * kRowBytes, b_map, n, 0, barrier);
      } else {
        TmaLoad2d(b, b_map, 0, 0, barrier);
      }
    }
    return;
  }
  TakeRegisters<232>();
  MbarrierWait(barrier, 0);
  float d[kN / 2];
  MultiplySteps<kN, kOperands>(a, b, d);
  const int thread = static_cast<int>(threadIdx.x);
  const int row = thread / 32 * 16 + thread % 32 / 4, t = thread % 4;
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) {
    out[(row + i % 4 / 2 * 8) * kN + i / 4 * 8 + 2 * t + i % 2] = d[i];
  }
}

template <int kN, Operands kOperands>
void LaunchProduct(const TensorMap& a, const TensorMap& b, float* d, Stream stream) {
  Launch(ProductKernel<kN, kOperands>, 1, 256, kBlockBytes + kN * kRowBytes + 8, stream, a, b, d);
}

template <Operands kOperands>
void LaunchProductOf(int n, const TensorMap& a, const TensorMap& b, float* d, Stream stream) {
  if constexpr (!Transposed(kOperands)) {
    if (n == 16) return LaunchProduct<16, kOperands>(a, b, d, stream);
    if (n == 32) return LaunchProduct<32, kOperands>(a, b, d, stream);
  }
  if (n == 64) return LaunchProduct<64, kOperands>(a, b, d, stream);
  if (n == 128) return LaunchProduct<128, kOperands>(a, b, d, stream);
  if (n == 192) return LaunchProduct<192, kOperands>(a, b, d, stream);
  TANDEM_CHECK_EQ(n, 256);
  LaunchProduct<256, kOperands>(a, b, d, stream);
}

}  // namespace

void LoadSwizzledBox(const TensorMap& map, int rows, int x, int y, uint16_t* out, Stream stream) {
  Launch(LoadSwizzledBoxKernel, 1, 64, static_cast<size_t>(rows * kRowBytes + 8), stream, map, rows,
         x, y, out);
}
void LoadBox3d(const TensorMap& map, int values, int x, int y, int z, float* out, Stream stream) {
  Launch(LoadBox3dKernel, 1, 64, static_cast<size_t>(values * 4 + 8), stream, map, values, x, y, z,
         out);
}
void LoadInARow(const float* in, float* out, int count, Stream stream) {
  Launch(LoadInARowKernel, 1, 64, static_cast<size_t>(count * 4 + 8), stream, in, out, count);
}
void StoreSwizzledBox(const TensorMap& map, int rows, int x, int y, Stream stream) {
  Launch(StoreSwizzledBoxKernel, 1, 64, static_cast<size_t>(rows * kRowBytes), stream, map, rows, x,
         y);
}
void SumThroughRing(const TensorMap& map, int boxes, int stages, float* sums, Stream stream) {
  Launch(RingKernel, 1, 96, static_cast<size_t>(stages * (kBlockBytes + 16)), stream, map, boxes,
         stages, sums);
}
void PingPong(int* order, Stream stream) { Launch(PingPongKernel, 1, 64, 4, stream, order); }

void ReachOtherBlocks(const TensorMap& map, int blocks, uint16_t* out, uint32_t* words,
                      Stream stream) {
  const size_t bytes = static_cast<size_t>(blocks) * (kReachBoxBytes + sizeof(Words4)) + 3 * 8;
  LaunchClusters(ReachOtherBlocksKernel, blocks, static_cast<unsigned>(blocks), 64, bytes, stream,
                 map, blocks, out, words);
}

void WgmmaProduct(int n, const TensorMap& a, const TensorMap& b, float* d, Stream stream) {
  LaunchProductOf<Operands::kShared>(n, a, b, d, stream);
}
void WgmmaProductOfRegisters(int n, const TensorMap& a, const TensorMap& b, float* d,
                             Stream stream) {
  LaunchProductOf<Operands::kRegisters>(n, a, b, d, stream);
}
void WgmmaProductTransposed(int n, bool registers, const TensorMap& a, const TensorMap& b, float* d,
                            Stream stream) {
  if (registers) {
    LaunchProductOf<Operands::kRegistersTransposed>(n, a, b, d, stream);
  } else {
    LaunchProductOf<Operands::kTransposed>(n, a, b, d, stream);
  }
}
void WgmmaProductE4m3(int n, const TensorMap& a, const TensorMap& b, float* d, Stream stream) {
  LaunchProductOf<Operands::kE4m3>(n, a, b, d, stream);
}

}  // namespace tandem::gpu_worker::cuda::language_test
