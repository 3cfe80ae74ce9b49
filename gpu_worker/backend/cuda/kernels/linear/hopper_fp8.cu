#include <algorithm>

#include "gpu_worker/backend/cuda/kernels/linear/hopper_fp8.h"
#include "gpu_worker/backend/cuda/kernels/linear/pack.h"
#include "gpu_worker/backend/cuda/kernels/rows/rows.h"
#include "gpu_worker/backend/cuda/simt/hopper_wgmma.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

// Bounds the workspace (20 MB for 18432 inputs); so many rows fill a GPU's thread blocks.
constexpr int64_t kHopperRowsAtOnce = 1024;
constexpr int64_t kAlignBytes = 256;

constexpr int kTileRows = 64;  // of one warpgroup: wgmma's M
constexpr int kColumns = 128;  // of a thread block; a block of scales, so one scale a k step
constexpr int kInputs = 128;   // of a stage: one run of scales
constexpr int kBytesOfW = kColumns * kInputs;
constexpr int kBandBytes = 16;  // of k in a core matrix
constexpr int kCoreBytes = 8 * kBandBytes;
constexpr int kBands = kInputs / kBandBytes;
constexpr int kSteps = 4;  // wgmmas of 32 inputs in a stage

// Two thread blocks of one warpgroup share a multiprocessor, or one block of two has it.
constexpr int StagesOf(int warpgroups) { return warpgroups == 1 ? 4 : 6; }
constexpr int ThreadsOf(int warpgroups) { return warpgroups * kWarpgroupThreads + kWarpThreads; }
constexpr int StageBytes(int warpgroups) { return warpgroups * kTileRows * kInputs + kBytesOfW; }
constexpr size_t SharedBytesOf(int warpgroups) {
  return static_cast<size_t>(StagesOf(warpgroups)) * (StageBytes(warpgroups) + 16);
}

struct Product {
  const float* x_scales;    // [batch, rows_padded, blocks]
  const float* w_scales;    // [batch, ceil(outputs / 128), blocks]
  int64_t w_scales_stride;  // from matrix to matrix
  int64_t rows, rows_padded, outputs, blocks;
  int box_outputs;  // of one copy of weights: 128, or 64 where the matrix has no more
  void* y;
  int64_t y_stride, y_batch_stride;
  bool y_bf16, y_pairs;  // pairs: two neighbours are aligned to be stored at once
};

struct Ring {
  unsigned char* x;  // [stages] x [rows, 128] e4m3, swizzled
  unsigned char* w;  // [stages] x [8 bands] x [outputs, 16] e4m3
  uint64_t* full;    // [stages]: the copies have come
  uint64_t* free;    // [stages]: all warps have multiplied
};

template <int kWarpgroups>
__device__ __forceinline__ Ring RingOf(unsigned char* shared) {
  constexpr int kStages = StagesOf(kWarpgroups);
  Ring ring;
  ring.x = shared;
  ring.w = ring.x + kStages * kWarpgroups * kTileRows * kInputs;
  ring.full = reinterpret_cast<uint64_t*>(ring.w + kStages * kBytesOfW);
  ring.free = ring.full + kStages;
  return ring;
}

// One thread brings tile after tile of inputs and weights.
template <int kWarpgroups>
__device__ __forceinline__ void Produce(const TensorMap& x_map, const TensorMap& w_map,
                                        const Product& p, const Ring& ring, int row, int column,
                                        int matrix) {
  constexpr int kStages = StagesOf(kWarpgroups), kRows = kWarpgroups * kTileRows;
  const uint32_t bytes = static_cast<uint32_t>(kRows * kInputs + p.box_outputs * kInputs);
  const int blocks = static_cast<int>(p.blocks);
  int stage = 0;
  uint32_t parity = 1;  // stages are free at first
  for (int block = 0; block < blocks; ++block) {
    MbarrierWait(ring.free + stage, parity);
    MbarrierArriveExpect(ring.full + stage, bytes);
    TmaLoad3d<CacheHint::kOnce>(ring.w + stage * kBytesOfW, w_map, column * 2, block * kBands,
                                matrix, ring.full + stage);
    TmaLoad3d(ring.x + stage * kRows * kInputs, x_map, block * kInputs, row, matrix,
              ring.full + stage);
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1u;
    }
  }
}

// total [64, 128] of a warpgroup's rows, fragments as in hopper_wgmma.h. The two scales of a
// thread's rows for the next block are read while the tensor cores have this one.
template <int kWarpgroups>
__device__ __forceinline__ void Consume(const Product& p, const Ring& ring, const float* x_scales,
                                        const float* w_scales, int64_t low_row, int64_t high_row,
                                        float (&total)[kColumns / 2]) {
  constexpr int kStages = StagesOf(kWarpgroups), kRows = kWarpgroups * kTileRows;
  const uint32_t k_stride = static_cast<uint32_t>(p.box_outputs * kBandBytes);
  const unsigned char* const x = ring.x + WarpgroupId() * kTileRows * kInputs;
  const float* const low_scales = x_scales + low_row * p.blocks;
  const float* const high_scales = x_scales + high_row * p.blocks;
  float low = low_scales[0] * w_scales[0], high = high_scales[0] * w_scales[0];
  const int blocks = static_cast<int>(p.blocks);
  int stage = 0;
  uint32_t parity = 0;
  float part[kColumns / 2];
  for (int block = 0; block < blocks; ++block) {
    MbarrierWait(ring.full + stage, parity);
    const uint64_t left = KMajorDescriptor(x + stage * kRows * kInputs);
    const uint64_t right = KMajorPlainDescriptor(ring.w + stage * kBytesOfW, k_stride, kCoreBytes);
    WgmmaFence(part);
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      WgmmaE4m3<kColumns>(part, DescriptorAt(left, step * kKMajorStepBytes),
                          DescriptorAt(right, step * 2 * k_stride), step > 0);
    }
    WgmmaCommit();
    const int next = block + 1 < blocks ? block + 1 : block;
    const float next_low = low_scales[next] * w_scales[next];
    const float next_high = high_scales[next] * w_scales[next];
    WgmmaWait<0>(part);
    if (LaneId() == 0) MbarrierArrive(ring.free + stage);
#pragma unroll
    for (int i = 0; i < kColumns / 2; ++i) {
      total[i] = fmaf(part[i], i % 4 < 2 ? low : high, total[i]);
    }
    low = next_low;
    high = next_high;
    if (++stage == kStages) {
      stage = 0;
      parity ^= 1u;
    }
  }
}

__device__ __forceinline__ void StorePair(const Product& p, int64_t at, float first, float second,
                                          int64_t columns_left) {
  if (p.y_bf16) {
    Bf16* const y = static_cast<Bf16*>(p.y) + at;
    if (p.y_pairs && columns_left >= 2) {
      *reinterpret_cast<uint32_t*>(y) = PackBf16x2(first, second);
      return;
    }
    if (columns_left >= 1) y[0] = ToBf16(first);
    if (columns_left >= 2) y[1] = ToBf16(second);
    return;
  }
  float* const y = static_cast<float*>(p.y) + at;
  if (columns_left >= 1) y[0] = first;
  if (columns_left >= 2) y[1] = second;
}

// Block (m, n, matrix): rows [m * kRows, ...) and outputs [n * 128, ...) of a matrix. m runs
// fastest, so that blocks that need the same weights run at the same time and find them in L2. The
// last warp copies, the others multiply.
template <int kWarpgroups>
__global__ void __launch_bounds__(ThreadsOf(kWarpgroups), 3 - kWarpgroups)
    HopperFp8Kernel(const __grid_constant__ TensorMap x_map,
                    const __grid_constant__ TensorMap w_map, Product p) {
  constexpr int kStages = StagesOf(kWarpgroups), kRows = kWarpgroups * kTileRows;
  const Ring ring = RingOf<kWarpgroups>(SharedMemory());
  if (threadIdx.x == 0) {
    for (int i = 0; i < kStages; ++i) {
      MbarrierInit(ring.full + i, 1);
      MbarrierInit(ring.free + i, kWarpgroups * kWarpgroupThreads / kWarpThreads);
    }
    MbarrierFenceInit();
  }
  __syncthreads();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kRows;
  const int64_t column = static_cast<int64_t>(blockIdx.y) * kColumns;
  const int64_t matrix = blockIdx.z;
  if (WarpgroupId() == kWarpgroups) {
    if (LaneId() == 0) {
      Produce<kWarpgroups>(x_map, w_map, p, ring, static_cast<int>(row), static_cast<int>(column),
                           static_cast<int>(matrix));
    }
    return;
  }
  const int64_t low_row = row + WarpId() * 16 + LaneId() / 4, high_row = low_row + 8;
  float total[kColumns / 2];
#pragma unroll
  for (int i = 0; i < kColumns / 2; ++i) total[i] = 0.0f;
  Consume<kWarpgroups>(p, ring, p.x_scales + matrix * p.rows_padded * p.blocks,
                       p.w_scales + matrix * p.w_scales_stride + column / kInputs * p.blocks,
                       low_row < p.rows ? low_row : p.rows - 1,
                       high_row < p.rows ? high_row : p.rows - 1, total);
  const int64_t y = matrix * p.y_batch_stride + column + LaneId() % 4 * 2;
  const int64_t columns_left = p.outputs - column - LaneId() % 4 * 2;
#pragma unroll
  for (int i = 0; i < kColumns / 2; i += 4) {
    const int64_t at = y + i * 2, left = columns_left - i * 2;
    if (low_row < p.rows) StorePair(p, at + low_row * p.y_stride, total[i], total[i + 1], left);
    if (high_row < p.rows) {
      StorePair(p, at + high_row * p.y_stride, total[i + 2], total[i + 3], left);
    }
  }
}

// Places in the workspace: codes [batch, rows_padded, k_padded], then scales.
struct Workspace {
  int64_t k_padded, rows_padded, scales_offset, bytes;
};

int WarpgroupsFor(int64_t rows) { return rows <= kTileRows ? 1 : 2; }

Workspace WorkspaceOf(const DeviceMatrix& w, int64_t rows) {
  Workspace s;
  s.k_padded = RoundUpTo(w.inputs, kInputsMultiple);
  // Whole tiles: a box must not be larger than its tensor. The rows behind are never written; what
  // is in them stays in products of theirs.
  s.rows_padded = RoundUpTo(rows, kTileRows * WarpgroupsFor(rows));
  s.scales_offset = RoundUpTo(w.batch * s.rows_padded * s.k_padded, kAlignBytes);
  s.bytes = s.scales_offset + w.batch * s.rows_padded * (s.k_padded / kInputs) * 4;
  return s;
}

TensorMap MapOfInputs(const Workspace& s, const uint8_t* codes, int64_t batch, int tile_rows) {
  return MakeTensorMap({.element = TensorElement::kByte,
                        .base = codes,
                        .rank = 3,
                        .sizes = {s.k_padded, s.rows_padded, batch},
                        .strides_bytes = {s.k_padded, s.rows_padded * s.k_padded},
                        .box = {kInputs, static_cast<uint32_t>(tile_rows), 1},
                        .swizzle_128 = true});
}

// Bands of 16 inputs, each [outputs, 16] bytes in a row.
TensorMap MapOfWeights(const DeviceMatrix& w, int64_t k_padded, int box_outputs) {
  const int64_t band_bytes = RoundUpTo(w.outputs, kOutputsMultiple) * kBandBytes;
  return MakeTensorMap({.element = TensorElement::kWord64,
                        .base = w.weights,
                        .rank = 3,
                        .sizes = {band_bytes / 8, k_padded / kBandBytes, w.batch},
                        .strides_bytes = {band_bytes, w.weight_bytes},
                        .box = {static_cast<uint32_t>(box_outputs * 2), kBands, 1}});
}

template <int kWarpgroups>
void LaunchProduct(const TensorMap& x_map, const TensorMap& w_map, const Product& p, int64_t batch,
                   Stream stream) {
  constexpr int kRows = kWarpgroups * kTileRows;
  const dim3 grid(static_cast<unsigned>((p.rows + kRows - 1) / kRows),
                  static_cast<unsigned>((p.outputs + kColumns - 1) / kColumns),
                  static_cast<unsigned>(batch));
  Launch(HopperFp8Kernel<kWarpgroups>, grid, ThreadsOf(kWarpgroups), SharedBytesOf(kWarpgroups),
         stream, x_map, w_map, p);
}

// The rows quantized: those that came so, or into the workspace.
Fp8Rows QuantizedRows(const LinearArgs& args, const Workspace& s, int64_t begin, int64_t rows,
                      Stream stream) {
  const DeviceMatrix& w = args.w;
  const int64_t blocks = s.k_padded / kInputs;
  if (args.x_fp8.codes != nullptr) {
    return {args.x_fp8.codes + begin * s.k_padded, args.x_fp8.scales + begin * blocks};
  }
  auto* const codes = static_cast<uint8_t*>(args.workspace);
  auto* const scales = reinterpret_cast<float*>(codes + s.scales_offset);
  for (int64_t b = 0; b < w.batch; ++b) {
    const auto* const x = static_cast<const uint16_t*>(args.x) + b * args.x_batch_stride;
    QuantizeFp8Rows(x + begin * args.x_stride, args.x_stride, w.inputs, rows,
                    codes + b * s.rows_padded * s.k_padded, scales + b * s.rows_padded * blocks,
                    stream);
  }
  return {codes, scales};
}

// Rows [begin, begin + rows).
void LinearChunk(const LinearArgs& args, int64_t begin, int64_t rows, Stream stream) {
  const DeviceMatrix& w = args.w;
  const Workspace s = WorkspaceOf(w, rows);
  const Fp8Rows x = QuantizedRows(args, s, begin, rows, stream);
  Product p;
  p.x_scales = x.scales;
  p.w_scales = static_cast<const float*>(w.scales);
  p.w_scales_stride = w.scale_bytes / 4;
  p.rows = rows;
  p.rows_padded = s.rows_padded;
  p.outputs = w.outputs;
  p.blocks = s.k_padded / kInputs;
  p.box_outputs = static_cast<int>(std::min<int64_t>(kColumns, RoundUpTo(w.outputs, 64)));
  p.y = static_cast<std::byte*>(args.y) + begin * args.y_stride * BytesOf(args.y_storage);
  p.y_stride = args.y_stride;
  p.y_batch_stride = args.y_batch_stride;
  p.y_bf16 = args.y_storage == Storage::kBf16;
  p.y_pairs = args.y_stride % 2 == 0 && args.y_batch_stride % 2 == 0 &&
              reinterpret_cast<uintptr_t>(p.y) % 4 == 0;
  const int warpgroups = WarpgroupsFor(rows);
  const TensorMap x_map = MapOfInputs(s, x.codes, w.batch, warpgroups * kTileRows);
  const TensorMap w_map = MapOfWeights(w, s.k_padded, p.box_outputs);
  if (warpgroups == 1) {
    LaunchProduct<1>(x_map, w_map, p, w.batch, stream);
  } else {
    LaunchProduct<2>(x_map, w_map, p, w.batch, stream);
  }
}

}  // namespace

size_t HopperFp8WorkspaceBytes(const DeviceMatrix& w, int64_t rows) {
  if (rows == 0) return 0;
  // Fewer rows may need as much as a chunk of two warpgroups' tiles, never more.
  return static_cast<size_t>(WorkspaceOf(w, std::min(rows, kHopperRowsAtOnce)).bytes);
}

void LinearHopperFp8(const LinearArgs& args, Stream stream) {
  TANDEM_CHECK(args.w.format.kind == WeightKind::kFp8 && args.x_storage == Storage::kBf16);
  for (int64_t begin = 0; begin < args.rows; begin += kHopperRowsAtOnce) {
    LinearChunk(args, begin, std::min(kHopperRowsAtOnce, args.rows - begin), stream);
  }
}

}  // namespace tandem::gpu_worker::cuda
