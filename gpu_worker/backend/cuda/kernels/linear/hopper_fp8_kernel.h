// What the two kernels of LinearHopperFp8 share: the product as a launch is told it, one run of
// inputs through the tensor cores, and where sums go. Only hopper_fp8*.cu and .cc include this.
//
// A warpgroup makes 64 rows of 128 outputs (one block of weights' scales, so one scale a run). Its
// thread has 64 sums, in registers three times: the products of this run, the total of this part,
// and (many rows) the sum of the parts before.
#pragma once

#include "gpu_worker/backend/cuda/kernels/linear/hopper_fp8.h"
#include "gpu_worker/backend/cuda/kernels/linear/pack.h"
#include "gpu_worker/backend/cuda/simt/hopper_wgmma.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"

namespace tandem::gpu_worker::cuda::hopper_fp8 {

inline constexpr int kTileRows = 64;  // of a warpgroup: wgmma's M
inline constexpr int kColumns = 128;  // of a warpgroup
inline constexpr int kInputs = 128;   // of a stage: one run of scales
inline constexpr int kSums = kColumns / 2;
inline constexpr int kBytesOfX = kTileRows * kInputs;
inline constexpr int kBytesOfW = kColumns * kInputs;
inline constexpr int kBandBytes = 16;  // of k in a core matrix
inline constexpr int kCoreBytes = 8 * kBandBytes;
inline constexpr int kBands = kInputs / kBandBytes;
inline constexpr int kSteps = 4;  // wgmmas of 32 inputs in a stage
inline constexpr int kWarpsOfWarpgroup = kWarpgroupThreads / kWarpThreads;

struct Product {
  const float* x_scales;     // [batch, rows, blocks]
  const float* w_scales;     // [batch, ceil(outputs / 128), blocks]
  int64_t w_scales_stride;   // from matrix to matrix
  int rows, outputs, batch;  // tiles are counted in 32 bits, offsets in 64
  int blocks, splits;
  int box_rows;     // of one copy of inputs: a tile's, or all there are
  int box_outputs;  // of one copy of weights: 128, or 64 where the matrix has no more
  void* y;
  int64_t y_stride, y_batch_stride;
  bool y_bf16;
  bool y_pairs;  // two neighbours are aligned to be stored at once
  bool y_boxes;  // y can be stored by TMA
};

struct Tile {
  int row, column, matrix;
};

__host__ __device__ __forceinline__ int CountOf(int n, int of) { return (n + of - 1) / of; }

// What follows from value is computed again behind this rather than kept in registers, of which the
// loop before needs all.
__device__ __forceinline__ void Forget([[maybe_unused]] int& value) {
#if defined(__CUDACC__)
  asm volatile("" : "+r"(value));
#endif
}

// First run of part `split`.
__device__ __forceinline__ int SplitBegin(const Product& p, int split) {
  return split * p.blocks / p.splits;
}

// Scales of a thread's two rows and of its outputs, run after run.
struct Scales {
  const float *low, *high, *w;
};

// Rows behind the last one take its scales; their sums are not stored.
__device__ __forceinline__ Scales ScalesOf(const Product& p, const Tile& tile, int low_row) {
  const int last = p.rows - 1, high_row = low_row + 8;
  const int64_t rows = int64_t{tile.matrix} * p.rows, blocks = p.blocks;
  return {p.x_scales + (rows + (low_row < last ? low_row : last)) * blocks,
          p.x_scales + (rows + (high_row < last ? high_row : last)) * blocks,
          p.w_scales + tile.matrix * p.w_scales_stride + tile.column / kInputs * blocks};
}

// part = the products of one run and kN outputs, under way.
template <int kN>
__device__ __forceinline__ void StartRun(const unsigned char* x, const unsigned char* w,
                                         uint32_t k_stride, float (&part)[kN / 2]) {
  const uint64_t left = KMajorDescriptor(x);
  const uint64_t right = KMajorPlainDescriptor(w, k_stride, kCoreBytes);
  WgmmaFence(part);
#pragma unroll
  for (int step = 0; step < kSteps; ++step) {
    WgmmaE4m3<kN>(part, DescriptorAt(left, step * kKMajorStepBytes),
                  DescriptorAt(right, step * 2 * k_stride), step > 0);
  }
  WgmmaCommit();
}

// total = runs [begin, end) of a tile's first kN outputs, scaled. Scales are read while the tensor
// cores multiply. stages: Wait(), X(), W(), Release().
template <int kN, typename Stages>
__device__ __forceinline__ void AddRuns(int begin, int end, uint32_t k_stride, const Scales& scales,
                                        Stages& stages, float (&total)[kN / 2]) {
  float part[kN / 2];
#pragma unroll
  for (int i = 0; i < kN / 2; ++i) total[i] = 0.0f;
  for (int block = begin; block < end; ++block) {
    stages.Wait();
    StartRun<kN>(stages.X(), stages.W(), k_stride, part);
    const float x_low = scales.low[block], x_high = scales.high[block], w = scales.w[block];
    WgmmaWait<0>(part);
    stages.Release();
    const float low = x_low * w, high = x_high * w;
#pragma unroll
    for (int i = 0; i < kN / 2; ++i) total[i] = fmaf(part[i], i % 4 < 2 ? low : high, total[i]);
  }
}

// Two neighbours of a row at `column`.
__device__ __forceinline__ void StorePair(const Product& p, int matrix, int row, int column,
                                          float first, float second) {
  if (row >= p.rows || column >= p.outputs) return;
  const int64_t at = matrix * p.y_batch_stride + row * p.y_stride + column;
  const bool both = column + 1 < p.outputs;
  if (p.y_bf16) {
    Bf16* const y = static_cast<Bf16*>(p.y) + at;
    if (p.y_pairs && both) {
      *reinterpret_cast<uint32_t*>(y) = PackBf16x2(first, second);
      return;
    }
    y[0] = ToBf16(first);
    if (both) y[1] = ToBf16(second);
    return;
  }
  float* const y = static_cast<float*>(p.y) + at;
  y[0] = first;
  if (both) y[1] = second;
}

// Four neighbouring registers of a fragment (hopper_wgmma.h): a pair in each of the thread's rows.
__device__ __forceinline__ void StoreFour(const Product& p, int matrix, int low_row, int column,
                                          const float (&v)[4]) {
  StorePair(p, matrix, low_row, column, v[0], v[1]);
  StorePair(p, matrix, low_row + 8, column, v[2], v[3]);
}

// ---- the two kernels' launches; maps with the boxes that the kernel wants

// W: boxes of box_outputs by kBands bands; x: of box_rows (at most 64) by a run.
int FewRowsTiles(const Product& p);
void LaunchFewRows(const TensorMap& x_map, const TensorMap& w_map, const Product& p, int clusters,
                   Stream stream);
// W: boxes of box_outputs by kBands / kSharing bands; x: of box_rows (at most 128) by a run; y:
// where p.y_boxes, of 64 by 64 values.
inline constexpr int kSharing = 2;
inline constexpr int kManyTileRows = 2 * kTileRows;
inline constexpr int kBoxColumnsOfY = 64;
int ManyRowsUnits(const Product& p);  // of work, each some kSharing tiles' time
void LaunchManyRows(const TensorMap& x_map, const TensorMap& w_map, const TensorMap& y_map,
                    const Product& p, int clusters, Stream stream);

}  // namespace tandem::gpu_worker::cuda::hopper_fp8
