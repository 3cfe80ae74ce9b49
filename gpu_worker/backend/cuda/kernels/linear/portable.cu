#include "gpu_worker/backend/cuda/kernels/linear/decode.h"
#include "gpu_worker/backend/cuda/kernels/linear/linear_kernels.h"
#include "gpu_worker/backend/cuda/kernels/linear/portable_layout.h"
#include "gpu_worker/backend/cuda/kernels/linear/store.h"
#include "gpu_worker/backend/cuda/simt/async_copy.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "gpu_worker/backend/cuda/simt/mma.h"
#include "gpu_worker/backend/cuda/simt/vector_access.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int kOutputTiles = static_cast<int>(kTileOutputs) / 8;  // mma tiles of a warp
constexpr int kChunk = static_cast<int>(kBlockBytes16);

struct KernelArgs {
  const unsigned char* weights;
  const unsigned char* scales;
  int64_t weight_bytes, scale_bytes;  // of one matrix
  int64_t outputs, x_inputs, k_padded, n_padded;
  int group;
  int64_t rows, splits;
  bool weights_read_once;  // by one row tile: L2 need not keep them
  InputRows x;
  OutputRows y;
  float* partials;  // [batch, splits, rows, n_padded]; null where splits is 1
};

// What a thread block is to do.
struct Work {
  int64_t matrix, split, row0, n0;
  int64_t k_begin;
  int stages;
  int tiles;  // of 64 outputs: 1 where the matrix ends, else 2
};

template <typename Shape, int kRows>
__device__ __forceinline__ Work WorkOfBlock(const KernelArgs& args) {
  const int64_t row_tiles = (args.rows + kRows - 1) / kRows;
  const int64_t blocks = args.k_padded / kSplitInputs;
  Work work;
  work.matrix = blockIdx.z;
  work.split = blockIdx.y;
  // Row tiles of the same weights side by side: they are on the GPU at the same time, and the
  // second finds in L2 what the first has read.
  work.row0 = blockIdx.x % row_tiles * kRows;
  work.n0 = blockIdx.x / row_tiles * kBlockOutputs;
  const int64_t begin = work.split * blocks / args.splits;
  const int64_t end = (work.split + 1) * blocks / args.splits;
  work.k_begin = begin * kSplitInputs;
  work.stages = static_cast<int>((end - begin) * (kSplitInputs / Shape::kInputs));
  work.tiles = args.n_padded - work.n0 < kBlockOutputs ? 1 : kWarpsAlongOutputs;
  return work;
}

template <WeightKind kKind, typename Shape>
__device__ __forceinline__ void CopyWeights(const KernelArgs& args, const Work& work, int64_t k0,
                                            unsigned char* stage) {
  constexpr int kTileChunks = static_cast<int>(Shape::kTileBytes) / kChunk;
  constexpr int kBandChunks = kWarpsAlongOutputs * kTileChunks;
  constexpr int kChunks = static_cast<int>(Shape::kWeightBytes) / kChunk;
  static_assert(kChunks % kPortableThreads == 0);
  const unsigned char* const from = args.weights + work.matrix * args.weight_bytes +
                                    TileIndex(k0, work.n0, args.n_padded) * Shape::kTileBytes;
  const int64_t band_bytes = args.n_padded / kTileOutputs * Shape::kTileBytes;
#pragma unroll
  for (int i = 0; i < kChunks / kPortableThreads; ++i) {
    const int chunk = i * kPortableThreads + static_cast<int>(threadIdx.x);
    const int band = chunk / kBandChunks, tile = chunk % kBandChunks / kTileChunks;
    if (tile >= work.tiles) continue;
    const int place = WeightChunkPlace(kKind, chunk % kTileChunks);
    unsigned char* const to =
        stage + band * Shape::kBandBytes + tile * Shape::kTileBytes + place * kChunk;
    const unsigned char* const source =
        from + band * band_bytes + chunk % kBandChunks * static_cast<int64_t>(kChunk);
    if (args.weights_read_once) {
      CopyAsync16Once(to, source);
    } else {
      CopyAsync16(to, source);
    }
  }
}

template <typename Shape, int kRows>
__device__ __forceinline__ void CopyInputs(const KernelArgs& args, const Work& work, int64_t k0,
                                           unsigned char* to) {
  constexpr int kRowChunks = static_cast<int>(Shape::kInputRowBytes) / kChunk;
  constexpr int kChunks = kRows * kRowChunks;
  const auto* const x = static_cast<const Bf16*>(args.x.x) + work.matrix * args.x.batch_stride;
#pragma unroll
  for (int i = 0; i < (kChunks + kPortableThreads - 1) / kPortableThreads; ++i) {
    const int chunk = i * kPortableThreads + static_cast<int>(threadIdx.x);
    if (chunk >= kChunks) continue;
    const int row = chunk / kRowChunks, in_row = chunk % kRowChunks;
    const int64_t k = k0 + in_row * (kChunk / 2);
    const bool valid = work.row0 + row < args.rows && k < args.x_inputs;
    const Bf16* const from = valid ? x + (work.row0 + row) * args.x.stride + k : x;
    CopyAsync16(to + InputChunkPlace(row, in_row, kRowChunks) * kChunk, from, valid);
  }
}

template <WeightKind kKind, int kRows>
__device__ __forceinline__ void CopyScales(const KernelArgs& args, const Work& work, int64_t k0,
                                           unsigned char* to) {
  const int i = static_cast<int>(threadIdx.x);
  if constexpr (kKind == WeightKind::kFp8) {
    const int64_t blocks = args.k_padded / kFp8ScaleBlock;
    const float* const from = args.x.scales +
                              (work.matrix * blocks + k0 / kFp8ScaleBlock) * args.x.scale_rows +
                              work.row0;
    if (i < kRows / 4) CopyAsync16(to + i * kChunk, from + i * 4);
  } else if constexpr (IsIntKind(kKind)) {
    constexpr int kGroupChunks = static_cast<int>(kBlockOutputs) * 2 / kChunk;
    const int groups = kSplitInputs > args.group ? 2 : 1;  // of a stage
    const int group = i / kGroupChunks, in_group = i % kGroupChunks;
    if (group >= groups || in_group >= work.tiles * (kGroupChunks / kWarpsAlongOutputs)) return;
    const unsigned char* const from = args.scales + work.matrix * args.scale_bytes +
                                      ((k0 / args.group + group) * args.n_padded + work.n0) * 2;
    CopyAsync16(to + i * kChunk, from + in_group * kChunk);
  }
}

// Operands of a warp from a stage. Its outputs are those of tile `warp_n` of each band.
template <WeightKind kKind, typename Shape, int kRows>
struct Operands {
  const unsigned char* stage;
  int warp_n;

  // Rows 16 m to 16 m + 15 of the inputs of a band.
  __device__ __forceinline__ void Inputs(int band, int m, uint32_t (&a)[4]) const {
    constexpr int kRowChunks = static_cast<int>(Shape::kInputRowBytes) / kChunk;
    const int lane = LaneId();
    const int place = InputChunkPlace(16 * m + lane % 16, 2 * band + lane / 16, kRowChunks);
    LoadMatrix<4>(a, stage + Shape::kInputsAt + place * kChunk);
  }

  __device__ __forceinline__ const unsigned char* Tile(int band) const {
    return stage + band * Shape::kBandBytes + warp_n * Shape::kTileBytes;
  }

  // Weights of four mma tiles, 4 part to 4 part + 3, of the tile's eight; part: 0 or 1. scale:
  // those of the thread's outputs, bf16 twice; not of fp8 and bf16.
  __device__ __forceinline__ void Weights(int band, int part, const uint32_t (&scale)[kOutputTiles],
                                          uint32_t (&b)[4][2]) const {
    const unsigned char* const tile = Tile(band);
    const int lane = LaneId();
    if constexpr (kKind == WeightKind::kBf16) {
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        uint32_t r[4];
        LoadMatrix<4>(r, tile + ((2 * part + i) * 32 + lane) * kChunk);
        b[2 * i][0] = r[0];
        b[2 * i][1] = r[1];
        b[2 * i + 1][0] = r[2];
        b[2 * i + 1][1] = r[3];
      }
    } else if constexpr (kKind == WeightKind::kFp8) {
      uint32_t r[4];
      LoadMatrix<4>(r, tile + (part * 32 + lane) * kChunk);
#pragma unroll
      for (int i = 0; i < 4; ++i) DecodeFp8(r[i], b[i]);
    } else if constexpr (kKind == WeightKind::kInt8) {
      const Words4 r = Load16(tile + WeightChunkPlace(kKind, 2 * lane + part) * kChunk);
#pragma unroll
      for (int i = 0; i < 4; ++i) DecodeInt8(r.w[i], scale[4 * part + i], b[i]);
    } else {
      const Words4 r = Load16(tile + lane * kChunk);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        DecodeInt4(r.w[2 * part + i / 2], i % 2, scale[4 * part + i], b[i]);
      }
    }
  }

  // Scales of outputs 8 i + lane / 4 of the tile, for the group of the warp's inputs; see
  // MarlinScalePlace. one_group: of the whole matrix.
  __device__ __forceinline__ void Scales(int group, bool one_group,
                                         uint32_t (&scale)[kOutputTiles]) const {
    const unsigned char* const scales =
        stage + Shape::kScalesAt + (group * kBlockOutputs + warp_n * kTileOutputs) * 2;
    const int g = LaneId() / 4;
    if (one_group) {
#pragma unroll
      for (int i = 0; i < kOutputTiles; ++i) {
        const int64_t place = kernels::MarlinScalePlace(1, 8 * i + g);
        scale[i] = reinterpret_cast<const Bf16*>(scales)[place] * 0x10001u;
      }
      return;
    }
    const Words4 all = Load16(scales + g * kChunk);
#pragma unroll
    for (int i = 0; i < kOutputTiles; ++i) {
      scale[i] = __byte_perm(all.w[i / 2], 0, i % 2 == 0 ? 0x1010 : 0x3232);
    }
  }
};

// Products of one stage into the warp's sums.
template <WeightKind kKind, typename Shape, int kRows>
__device__ __forceinline__ void Multiply(const Operands<kKind, Shape, kRows>& operands, int warp_k,
                                         int group, bool one_group,
                                         float (&sums)[kOutputTiles][kRows / 16][4]) {
  uint32_t scale[kOutputTiles] = {};
  if constexpr (IsIntKind(kKind)) {
    const int k = warp_k * static_cast<int>(Shape::kBandsOfWarp * kTileInputs);
    operands.Scales(k / group, one_group, scale);
  }
#pragma unroll
  for (int i = 0; i < Shape::kBandsOfWarp; ++i) {
    const int band = warp_k * static_cast<int>(Shape::kBandsOfWarp) + i;
    uint32_t a[kRows / 16][4];
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) operands.Inputs(band, m, a[m]);
#pragma unroll
    for (int part = 0; part < 2; ++part) {
      uint32_t b[4][2];
      operands.Weights(band, part, scale, b);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
#pragma unroll
        for (int m = 0; m < kRows / 16; ++m) MmaBf16(sums[4 * part + n][m], a[m], b[n]);
      }
    }
  }
}

// The same for fp8: the products of a stage, which is a block of scales, are summed apart and then
// added, scaled.
template <typename Shape, int kRows>
__device__ __forceinline__ void MultiplyFp8(
    const Operands<WeightKind::kFp8, Shape, kRows>& operands, int warp_k, float w_scale,
    float (&sums)[kOutputTiles][kRows / 16][4]) {
  constexpr int kBands = static_cast<int>(Shape::kBandsOfWarp);
  uint32_t a[kBands][kRows / 16][4];
#pragma unroll
  for (int i = 0; i < kBands; ++i) {
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) operands.Inputs(warp_k * kBands + i, m, a[i][m]);
  }
  const auto* const x_scales =
      reinterpret_cast<const float*>(operands.stage + Shape::kScalesAt) + LaneId() / 4;
  float scale[kRows / 16][2];
#pragma unroll
  for (int m = 0; m < kRows / 16; ++m) {
    scale[m][0] = x_scales[16 * m] * w_scale;
    scale[m][1] = x_scales[16 * m + 8] * w_scale;
  }
#pragma unroll
  for (int part = 0; part < 2; ++part) {
    float block[4][kRows / 16][4] = {};
#pragma unroll
    for (int i = 0; i < kBands; ++i) {
      uint32_t b[4][2];
      operands.Weights(warp_k * kBands + i, part, {}, b);
#pragma unroll
      for (int n = 0; n < 4; ++n) {
#pragma unroll
        for (int m = 0; m < kRows / 16; ++m) MmaBf16(block[n][m], a[i][m], b[n]);
      }
    }
#pragma unroll
    for (int n = 0; n < 4; ++n) {
#pragma unroll
      for (int m = 0; m < kRows / 16; ++m) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float& sum = sums[4 * part + n][m][e];
          sum = fmaf(block[n][m][e], scale[m][e / 2], sum);
        }
      }
    }
  }
}

// Where a thread's sum belongs: to y, or to the parts that SumPartialsKernel adds.
__device__ __forceinline__ void StoreSum(const KernelArgs& args, const Work& work, int64_t row,
                                         int64_t n, float sum) {
  if (row >= args.rows || n >= args.outputs) return;
  if (args.partials == nullptr) return StoreAt(args.y, work.matrix, row, n, sum);
  args.partials[((work.matrix * args.splits + work.split) * args.rows + row) * args.n_padded + n] =
      sum;
}

// Adds the sums of the four warps along the inputs, in their order; each warp does so for a fourth
// of the outputs, two mma tiles.
template <typename Shape, int kRows>
__device__ __forceinline__ void AddAndStore(const KernelArgs& args, const Work& work, int warp_n,
                                            int warp_k,
                                            const float (&sums)[kOutputTiles][kRows / 16][4]) {
  constexpr int kTilesOfWarp = kOutputTiles / kWarpsAlongInputs;
  float* const exchange = reinterpret_cast<float*>(SharedMemory());
  const int lane = LaneId();
  const auto place = [&](int to, int from, int n, int m, int e) {
    const int sum = (n % kTilesOfWarp * (kRows / 16) + m) * 4 + e;
    return ExchangePlace(warp_n, to, from, sum, Shape::kSumsHanded, lane);
  };
#pragma unroll
  for (int n = 0; n < kOutputTiles; ++n) {
    if (n / kTilesOfWarp == warp_k) continue;
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        exchange[place(n / kTilesOfWarp, warp_k, n, m, e)] = sums[n][m][e];
      }
    }
  }
  __syncthreads();
  if (warp_n >= work.tiles) return;
#pragma unroll
  for (int n = 0; n < kOutputTiles; ++n) {
    if (n / kTilesOfWarp != warp_k) continue;
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) {
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        float sum = 0.0f;
#pragma unroll
        for (int from = 0; from < kWarpsAlongInputs; ++from) {
          const float part =
              from == warp_k ? sums[n][m][e] : exchange[place(warp_k, from, n, m, e)];
          sum = from == 0 ? part : sum + part;
        }
        const int64_t row = work.row0 + 16 * m + lane / 4 + e / 2 * 8;
        const int64_t output = work.n0 + warp_n * kTileOutputs + 8 * n + lane % 4 * 2 + e % 2;
        StoreSum(args, work, row, output, sum);
      }
    }
  }
}

// Two blocks a multiprocessor while a thread's sums leave it 128 registers.
constexpr int BlocksPerMultiprocessor(int rows) { return rows <= 32 ? 2 : 1; }

template <WeightKind kKind, int kRows>
__global__ void __launch_bounds__(kPortableThreads, BlocksPerMultiprocessor(kRows))
    PortableLinearKernel(KernelArgs args) {
  using Shape = PortableShape<kKind, kRows>;
  constexpr int kStages = Shape::kStages;
  unsigned char* const shared = SharedMemory();
  const Work work = WorkOfBlock<Shape, kRows>(args);
  const int warp_n = WarpId() % kWarpsAlongOutputs, warp_k = WarpId() / kWarpsAlongOutputs;
  const bool one_group = args.k_padded == args.group;
  const float* const w_scales =
      reinterpret_cast<const float*>(args.scales + work.matrix * args.scale_bytes);

  const auto copy = [&](int stage) {
    unsigned char* const to = shared + stage % kStages * Shape::kStageBytes;
    const int64_t k0 = work.k_begin + stage * Shape::kInputs;
    CopyWeights<kKind, Shape>(args, work, k0, to);
    CopyInputs<Shape, kRows>(args, work, k0, to + Shape::kInputsAt);
    CopyScales<kKind, kRows>(args, work, k0, to + Shape::kScalesAt);
  };
  const auto scale_of = [&](int stage) {
    if constexpr (kKind != WeightKind::kFp8) return 0.0f;
    const int64_t k0 = work.k_begin + stage * Shape::kInputs;
    return w_scales[Fp8ScalePlace(k0, work.n0, args.k_padded)];
  };

  float sums[kOutputTiles][kRows / 16][4] = {};
#pragma unroll
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (stage < work.stages) copy(stage);
    CommitAsyncCopies();
  }
  float w_scale = scale_of(0);
  for (int stage = 0; stage < work.stages; ++stage) {
    WaitAsyncCopies<kStages - 2>();
    __syncthreads();  // the stage is there, and everybody is done with the one before it
    if (stage + kStages - 1 < work.stages) copy(stage + kStages - 1);
    CommitAsyncCopies();
    // A stage ahead, or its way from memory would be waited for.
    const float next_scale = stage + 1 < work.stages ? scale_of(stage + 1) : 0.0f;
    const Operands<kKind, Shape, kRows> operands = {shared + stage % kStages * Shape::kStageBytes,
                                                    warp_n};
    if (warp_n < work.tiles) {
      if constexpr (kKind == WeightKind::kFp8) {
        MultiplyFp8<Shape, kRows>(operands, warp_k, w_scale, sums);
      } else {
        Multiply<kKind, Shape, kRows>(operands, warp_k, args.group, one_group, sums);
      }
    }
    w_scale = next_scale;
  }
  WaitAsyncCopies<0>();
  __syncthreads();
  AddAndStore<Shape, kRows>(args, work, warp_n, warp_k, sums);
}

// y = partials[0] + partials[1] + ..., in that order. One thread an output of a row.
__global__ void __launch_bounds__(kPortableThreads) SumPartialsKernel(KernelArgs args) {
  const int64_t n_blocks = (args.outputs + kPortableThreads - 1) / kPortableThreads;
  const int64_t row = blockIdx.x / n_blocks;
  const int64_t n = blockIdx.x % n_blocks * kPortableThreads + threadIdx.x;
  const int64_t matrix = blockIdx.z;
  if (n >= args.outputs) return;
  const float* const from =
      args.partials + (matrix * args.splits * args.rows + row) * args.n_padded + n;
  float sum = from[0];
#pragma unroll 4
  for (int64_t split = 1; split < args.splits; ++split) {
    sum += from[split * args.rows * args.n_padded];
  }
  StoreAt(args.y, matrix, row, n, sum);
}

template <WeightKind kKind, int kRows>
void RunTile(const KernelArgs& args, int64_t batch, Stream stream) {
  const int64_t row_tiles = (args.rows + kRows - 1) / kRows;
  const int64_t output_blocks = (args.outputs + kBlockOutputs - 1) / kBlockOutputs;
  KernelArgs mine = args;
  mine.weights_read_once = row_tiles == 1;
  const dim3 grid(static_cast<unsigned>(row_tiles * output_blocks),
                  static_cast<unsigned>(args.splits), static_cast<unsigned>(batch));
  Launch(PortableLinearKernel<kKind, kRows>, grid, kPortableThreads,
         PortableShape<kKind, kRows>::kSharedBytes, stream, mine);
}

// The smallest row tile that holds all rows, or the largest. fp8 keeps two sets of sums, for which
// 64 rows would want more registers than there are.
template <WeightKind kKind>
void Run(const KernelArgs& args, int64_t batch, Stream stream) {
  if (args.rows <= 16) return RunTile<kKind, 16>(args, batch, stream);
  if (args.rows <= 32 || kKind == WeightKind::kFp8) return RunTile<kKind, 32>(args, batch, stream);
  if constexpr (kKind != WeightKind::kFp8) RunTile<kKind, 64>(args, batch, stream);
}

void RunKind(WeightKind kind, const KernelArgs& args, int64_t batch, Stream stream) {
  switch (kind) {
    case WeightKind::kF32:
      TANDEM_CHECK(false);  // LinearPortableF32
    case WeightKind::kBf16:
      return Run<WeightKind::kBf16>(args, batch, stream);
    case WeightKind::kFp8:
      return Run<WeightKind::kFp8>(args, batch, stream);
    case WeightKind::kInt8:
      return Run<WeightKind::kInt8>(args, batch, stream);
    case WeightKind::kInt4:
      return Run<WeightKind::kInt4>(args, batch, stream);
  }
}

}  // namespace

int64_t PartialBytes(const DeviceMatrix& w, int64_t rows, int64_t splits) {
  if (splits == 1) return 0;
  return w.batch * splits * rows * RoundUpTo(w.outputs, kOutputsMultiple) * 4;
}

void LinearPortable(const PortableArgs& args, Stream stream) {
  const DeviceMatrix& w = args.w;
  const KernelArgs kernel = {.weights = static_cast<const unsigned char*>(w.weights),
                             .scales = static_cast<const unsigned char*>(w.scales),
                             .weight_bytes = w.weight_bytes,
                             .scale_bytes = w.scale_bytes,
                             .outputs = w.outputs,
                             .x_inputs = args.x_inputs,
                             .k_padded = RoundUpTo(w.inputs, kInputsMultiple),
                             .n_padded = RoundUpTo(w.outputs, kOutputsMultiple),
                             .group = w.format.group,
                             .rows = args.rows,
                             .splits = args.splits,
                             .weights_read_once = false,
                             .x = args.x,
                             .y = args.y,
                             .partials = args.splits == 1 ? nullptr : args.partials};
  RunKind(w.format.kind, kernel, w.batch, stream);
  if (args.splits == 1) return;
  const int64_t n_blocks = (w.outputs + kPortableThreads - 1) / kPortableThreads;
  const dim3 grid(static_cast<unsigned>(n_blocks * args.rows), 1, static_cast<unsigned>(w.batch));
  Launch(SumPartialsKernel, grid, kPortableThreads, 0, stream, kernel);
}

}  // namespace tandem::gpu_worker::cuda
