// The portable linear kernel; portable_layout.h has its plan. Only portable_bf16.cu and its like
// include this: one format each, which the compiler takes long enough for.
#pragma once

#include <type_traits>

#include "gpu_worker/backend/cuda/kernels/linear/decode.h"
#include "gpu_worker/backend/cuda/kernels/linear/portable_launch.h"
#include "gpu_worker/backend/cuda/kernels/linear/portable_layout.h"
#include "gpu_worker/backend/cuda/kernels/linear/store.h"
#include "gpu_worker/backend/cuda/simt/async_copy.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "gpu_worker/backend/cuda/simt/mma.h"
#include "gpu_worker/backend/cuda/simt/vector_access.h"

namespace tandem::gpu_worker::cuda::portable {

inline constexpr int kOutputTiles = static_cast<int>(kTileOutputs) / 8;  // mma tiles of a warp
inline constexpr int kChunk = static_cast<int>(kBlockBytes16);

// What a thread block is to do.
struct Work {
  // 32 bits: counts of matrices, rows (of a chunk), outputs and inputs. Offsets are 64 bits.
  int matrix, split, row0, n0;
  int k_begin;
  int stages;
  int tiles;  // of 64 outputs: 1 where the matrix ends, else 2
};

template <typename Shape, int kRows>
__device__ __forceinline__ Work WorkOfBlock(const KernelArgs& args) {
  const int row_tiles = static_cast<int>((args.rows + kRows - 1) / kRows);
  const int64_t blocks = args.k_padded / kSplitInputs;
  Work work;
  work.matrix = static_cast<int>(blockIdx.z);
  work.split = static_cast<int>(blockIdx.y);
  // Row tiles of the same weights side by side: they are on the GPU at the same time, and the
  // second finds in L2 what the first has read.
  const int block = static_cast<int>(blockIdx.x);
  work.row0 = block % row_tiles * kRows;
  work.n0 = block / row_tiles * static_cast<int>(kBlockOutputs);
  const int64_t begin = work.split * blocks / args.splits;
  const int64_t end = (work.split + 1) * blocks / args.splits;
  work.k_begin = static_cast<int>(begin * kSplitInputs);
  work.stages = static_cast<int>((end - begin) * (kSplitInputs / Shape::kInputs));
  work.tiles = args.n_padded - work.n0 < kBlockOutputs ? 1 : kWarpsAlongOutputs;
  return work;
}

// Through shared memory, which the compiler must not see through.
__device__ __forceinline__ void Keep(const Work& work, volatile Work* to) {
  to->matrix = work.matrix;
  to->split = work.split;
  to->row0 = work.row0;
  to->n0 = work.n0;
  to->tiles = work.tiles;
}
__device__ __forceinline__ Work Kept(const volatile Work* from) {
  Work work = {};
  work.matrix = from->matrix;
  work.split = from->split;
  work.row0 = from->row0;
  work.n0 = from->n0;
  work.tiles = from->tiles;
  return work;
}

// What one thread copies for each stage: of every array the same places, stage after stage, so that
// only pointers move. Chunks of 16 bytes go to threads in order, kPortableThreads at a time.
template <WeightKind kKind, int kRows>
class StageCopies {
 public:
  using Shape = PortableShape<kKind, kRows>;

  __device__ __forceinline__ StageCopies(const KernelArgs& args, const Work& work)
      : args_(args),
        inputs_left_(static_cast<int>(args.x_inputs) - work.k_begin - InRow() * kChunkInputs) {
    const int64_t k0 = work.k_begin;
    weights_ = args.weights + work.matrix * args.weight_bytes +
               TileIndex(k0, work.n0, args.n_padded) * Shape::kTileBytes +
               Band() * BandBytes(args.n_padded) + InBand() * kChunk;
    // Tiles that the matrix does not have are not copied.
    has_weights_ = InBand() < work.tiles * kTileChunks;
    x_ = static_cast<const Input*>(args.x.x) + work.matrix * args.x.batch_stride +
         (work.row0 + Row()) * args.x.stride + k0 + InRow() * kChunkInputs;
    rows_left_ = static_cast<int>(args.rows) - work.row0 - Row();
    if constexpr (kKind == WeightKind::kFp8) {
      const int64_t run =
          work.matrix * args.x.batch_stride + (work.row0 + Thread()) * args.x.stride + k0;
      scales_ = reinterpret_cast<const unsigned char*>(args.x.scales + run / kFp8ScaleBlock);
      // Rows behind the last have none; what their place holds goes to sums that nobody stores.
      has_scales_ = Thread() < kRows && work.row0 + Thread() < args.rows;
    } else if constexpr (IsIntKind(kKind)) {
      const int group = Thread() / kGroupChunks, in_group = Thread() % kGroupChunks;
      scales_ = args.scales + work.matrix * args.scale_bytes +
                ((k0 / args.group + group) * args.n_padded + work.n0) * 2 + in_group * kChunk;
      has_scales_ = group < kSplitInputs / args.group &&
                    in_group < work.tiles * (kGroupChunks / kWarpsAlongOutputs);
    }
  }

  static CopySteps Steps(const KernelArgs& args) {
    CopySteps steps;
    steps.weights = kBandsAtOnce * BandBytes(args.n_padded);
    steps.rows = kRowsAtOnceCopied * args.x.stride;
    if constexpr (kKind == WeightKind::kFp8) steps.scales = sizeof(float);
    if constexpr (IsIntKind(kKind)) steps.scales = kSplitInputs / args.group * args.n_padded * 2;
    return steps;
  }

  // The next stage, into `stage`.
  __device__ __forceinline__ void Next(unsigned char* stage) {
    unsigned char* const to = stage + Band() * Shape::kBandBytes +
                              InBand() / kTileChunks * Shape::kTileBytes +
                              WeightChunkPlace(kKind, InBand() % kTileChunks) * kChunk;
#pragma unroll
    for (int i = 0; i < kBandSteps; ++i) {
      if (has_weights_) CopyAsync16Once(to + i * kPortableThreads * kChunk, weights_);
      weights_ += args_.steps.weights;
    }

    unsigned char* const x_to =
        stage + Shape::kInputsAt + InputChunkPlace(Row(), InRow(), kRowChunks) * kChunk;
    const Input* from = x_;
#pragma unroll
    for (int i = 0; i < kRowSteps; ++i, from += args_.steps.rows) {
      if (i * kRowsAtOnceCopied + Row() >= kRows) continue;
      const bool valid = i * kRowsAtOnceCopied < rows_left_ && (kPaddedInputs || inputs_left_ > 0);
      CopyAsync16(x_to + i * kPortableThreads * kChunk, from, valid);
    }
    x_ += Shape::kInputs;
    inputs_left_ -= static_cast<int>(Shape::kInputs);

    if constexpr (kKind == WeightKind::kFp8) {
      // A thread's row's; those of the next stages lie beside it.
      if (has_scales_) CopyAsync4(stage + Shape::kScalesAt + Thread() * 4, scales_);
      scales_ += args_.steps.scales;
    } else if constexpr (Shape::kScaleBytes > 0) {
      if (has_scales_) CopyAsync16(stage + Shape::kScalesAt + Thread() * kChunk, scales_);
      scales_ += args_.steps.scales;
    }
  }

 private:
  using Input = std::conditional_t<kKind == WeightKind::kFp8, uint8_t, Bf16>;
  static constexpr int kChunkInputs = kChunk / static_cast<int>(sizeof(Input));
  // Quantized inputs are as many as weights.
  static constexpr bool kPaddedInputs = kKind == WeightKind::kFp8;
  static constexpr int kTileChunks = static_cast<int>(Shape::kTileBytes) / kChunk;
  static constexpr int kBandChunks = kWarpsAlongOutputs * kTileChunks;
  static constexpr int kBandsAtOnce = kPortableThreads / kBandChunks;
  static constexpr int kBandSteps = static_cast<int>(Shape::kBands) / kBandsAtOnce;
  static_assert(kBandSteps * kBandsAtOnce == Shape::kBands);
  static constexpr int kRowChunks = static_cast<int>(Shape::kInputRowBytes) / kChunk;
  static constexpr int kRowsAtOnceCopied = kPortableThreads / kRowChunks;
  // The exclusive-or of InputChunkPlace is the same for all rows that a thread copies.
  static_assert(kRowsAtOnceCopied % 8 == 0);
  static constexpr int kRowSteps = (kRows + kRowsAtOnceCopied - 1) / kRowsAtOnceCopied;
  static constexpr int kGroupChunks = static_cast<int>(kBlockOutputs) * 2 / kChunk;

  static __device__ __forceinline__ int Thread() { return static_cast<int>(threadIdx.x); }
  static __device__ __forceinline__ int Band() { return Thread() / kBandChunks; }
  static __device__ __forceinline__ int InBand() { return Thread() % kBandChunks; }
  static __device__ __forceinline__ int Row() { return Thread() / kRowChunks; }
  static __device__ __forceinline__ int InRow() { return Thread() % kRowChunks; }
  static __host__ __device__ __forceinline__ int64_t BandBytes(int64_t n_padded) {
    return n_padded / kTileOutputs * Shape::kTileBytes;
  }

  const KernelArgs& args_;
  const unsigned char* weights_;
  const Input* x_;
  const unsigned char* scales_ = nullptr;
  int rows_left_, inputs_left_;  // from the thread's first on
  bool has_weights_, has_scales_ = false;
};

// Scales of eight outputs, two bf16 a word.
using ScaleWords = Words4;

// That of output i, twice.
__device__ __forceinline__ uint32_t ScaleOf(const ScaleWords& scale, int i) {
  return __byte_perm(scale.w[i / 2], 0, i % 2 == 0 ? 0x1010 : 0x3232);
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
    if constexpr (kKind == WeightKind::kFp8) {
      // Thread t of four has inputs 4 t to 4 t + 3, of inputs as of weights: which products an mma
      // adds at which place does not matter as long as the two agree.
      const int place = InputChunkPlace(16 * m + lane % 16, band, kRowChunks);
      uint32_t rows[2], halves[2];
      LoadMatrix<2>(rows, stage + Shape::kInputsAt + place * kChunk);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        DecodeFp8(rows[i], halves);
        a[i] = halves[0];
        a[2 + i] = halves[1];
      }
    } else {
      const int place = InputChunkPlace(16 * m + lane % 16, 2 * band + lane / 16, kRowChunks);
      LoadMatrix<4>(a, stage + Shape::kInputsAt + place * kChunk);
    }
  }

  __device__ __forceinline__ const unsigned char* Tile(int band) const {
    return stage + band * Shape::kBandBytes + warp_n * Shape::kTileBytes;
  }

  // Weights of four mma tiles, 4 part to 4 part + 3, of the tile's eight; part: 0 or 1. scale:
  // those of the thread's outputs, bf16 twice; not of fp8 and bf16.
  template <int kCount>
  __device__ __forceinline__ void Weights(int band, int part, const ScaleWords& scale,
                                          uint32_t (&b)[kCount][2]) const {
    const unsigned char* const tile = Tile(band);
    const int lane = LaneId();
    if constexpr (kKind == WeightKind::kFp8) {
      uint32_t r[kCount];
      LoadMatrix<kCount>(r, tile + (part * kCount * 8 + lane % (8 * kCount)) * kChunk);
#pragma unroll
      for (int i = 0; i < kCount; ++i) DecodeFp8(r[i], b[i]);
      return;
    }
    static_assert(kKind == WeightKind::kFp8 || kCount == 4);
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
    } else if constexpr (kKind == WeightKind::kInt8) {
      const Words4 r = Load16(tile + WeightChunkPlace(kKind, 2 * lane + part) * kChunk);
#pragma unroll
      for (int i = 0; i < 4; ++i) DecodeInt8(r.w[i], ScaleOf(scale, 4 * part + i), b[i]);
    } else if constexpr (kKind == WeightKind::kInt4) {
      const Words4 r = Load16(tile + lane * kChunk);
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        DecodeInt4(r.w[2 * part + i / 2], i % 2, ScaleOf(scale, 4 * part + i), b[i]);
      }
    }
  }

  // Scales of the thread's outputs, 8 i + lane / 4 of the tile for i of 0 to 7, for the group of
  // the warp's inputs; see MarlinScalePlace. one_group: of the whole matrix.
  __device__ __forceinline__ void Scales(int group, bool one_group, ScaleWords& scale) const {
    const unsigned char* const scales =
        stage + Shape::kScalesAt + (group * kBlockOutputs + warp_n * kTileOutputs) * 2;
    const int g = LaneId() / 4;
    if (!one_group) {
      scale = Load16(scales + g * kChunk);
      return;
    }
#pragma unroll
    for (int i = 0; i < kOutputTiles; i += 2) {
      const auto of = [&](int tile) -> uint32_t {
        const int64_t place = kernels::MarlinScalePlace(1, 8 * tile + g);
        return reinterpret_cast<const Bf16*>(scales)[place];
      };
      scale.w[i / 2] = of(i + 1) << 16 | of(i);
    }
  }
};

// Products of one stage into the warp's sums.
template <WeightKind kKind, typename Shape, int kRows>
__device__ __forceinline__ void Multiply(const Operands<kKind, Shape, kRows>& operands, int warp_k,
                                         int group, bool one_group,
                                         float (&sums)[kOutputTiles][kRows / 16][4]) {
  ScaleWords scale = {};
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
    const Operands<WeightKind::kFp8, Shape, kRows>& operands, int warp_k, const float* w_scales,
    int stage, float (&sums)[kOutputTiles][kRows / 16][4]) {
  constexpr int kBands = static_cast<int>(Shape::kBandsOfWarp);
  // mma tiles at a time; more would want more registers for their sums than there are.
  constexpr int kTiles = 2;
  const float w_scale = w_scales[stage];
  uint32_t a[kBands][kRows / 16][4];
#pragma unroll
  for (int i = 0; i < kBands; ++i) {
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) operands.Inputs(warp_k * kBands + i, m, a[i][m]);
  }
#pragma unroll
  for (int part = 0; part < kOutputTiles / kTiles; ++part) {
    float block[kTiles][kRows / 16][4] = {};
#pragma unroll
    for (int i = 0; i < kBands; ++i) {
      uint32_t b[kTiles][2];
      operands.Weights(warp_k * kBands + i, part, {}, b);
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int m = 0; m < kRows / 16; ++m) MmaBf16(block[n][m], a[i][m], b[n]);
      }
    }
    // Read again for each part: kept, they would be four registers more than there are.
    const auto* const x_scales =
        reinterpret_cast<const volatile float*>(operands.stage + Shape::kScalesAt) + LaneId() / 4;
#pragma unroll
    for (int m = 0; m < kRows / 16; ++m) {
      const float scale[2] = {x_scales[16 * m] * w_scale, x_scales[16 * m + 8] * w_scale};
#pragma unroll
      for (int n = 0; n < kTiles; ++n) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          float& sum = sums[kTiles * part + n][m][e];
          sum = fmaf(block[n][m][e], scale[e / 2], sum);
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
  // Needed again at the end; registers are for what the loop needs.
  auto* const kept = reinterpret_cast<volatile Work*>(shared + Shape::kWorkAt);
  if (threadIdx.x == 0) Keep(work, kept);
  const int warp_n = WarpId() % kWarpsAlongOutputs, warp_k = WarpId() / kWarpsAlongOutputs;
  const bool one_group = args.k_padded == args.group;

  StageCopies<kKind, kRows> copies(args, work);
  // One scale of weights for all outputs of the block, one after another along the inputs: 32
  // stages find theirs in one line of L1.
  const float* const w_scales =
      reinterpret_cast<const float*>(args.scales + work.matrix * args.scale_bytes) +
      (kKind == WeightKind::kFp8 ? Fp8ScalePlace(work.k_begin, work.n0, args.k_padded) : 0);

  float sums[kOutputTiles][kRows / 16][4] = {};
#pragma unroll 1
  for (int stage = 0; stage < kStages - 1; ++stage) {
    if (stage < work.stages) copies.Next(shared + stage * Shape::kStageBytes);
    CommitAsyncCopies();
  }
  constexpr int kStageBytes = static_cast<int>(Shape::kStageBytes);
  constexpr int kLast = (kStages - 1) * kStageBytes;
  int at = 0;  // of the stage, in shared memory
  for (int stage = 0; stage < work.stages; ++stage) {
    WaitAsyncCopies<kStages - 2>();
    __syncthreads();  // the stage is there, and everybody is done with the one before it
    if (stage + kStages - 1 < work.stages) {
      copies.Next(shared + (at == 0 ? kLast : at - kStageBytes));
    }
    CommitAsyncCopies();
    const Operands<kKind, Shape, kRows> operands = {shared + at, warp_n};
    if (warp_n < work.tiles) {
      if constexpr (kKind == WeightKind::kFp8) {
        MultiplyFp8<Shape, kRows>(operands, warp_k, w_scales, stage, sums);
      } else {
        Multiply<kKind, Shape, kRows>(operands, warp_k, args.group, one_group, sums);
      }
    }
    at = at == kLast ? 0 : at + kStageBytes;
  }
  WaitAsyncCopies<0>();
  __syncthreads();
  AddAndStore<Shape, kRows>(args, Kept(kept), warp_n, warp_k, sums);
}

template <WeightKind kKind, int kRows>
void RunRows(const KernelArgs& args, int64_t batch, Stream stream) {
  const int64_t row_tiles = (args.rows + kRows - 1) / kRows;
  const int64_t output_blocks = (args.outputs + kBlockOutputs - 1) / kBlockOutputs;
  KernelArgs mine = args;
  mine.steps = StageCopies<kKind, kRows>::Steps(args);
  const dim3 grid(static_cast<unsigned>(row_tiles * output_blocks),
                  static_cast<unsigned>(args.splits), static_cast<unsigned>(batch));
  Launch(PortableLinearKernel<kKind, kRows>, grid, kPortableThreads,
         PortableShape<kKind, kRows>::kSharedBytes, stream, mine);
}

// The smallest row tile that holds all rows, or the largest. fp8 keeps two sets of sums, for which
// 64 rows would want more registers than there are.
template <WeightKind kKind>
void Run(const KernelArgs& args, int64_t batch, Stream stream) {
  if (args.rows <= 16) return RunRows<kKind, 16>(args, batch, stream);
  if (args.rows <= 32 || kKind == WeightKind::kFp8) return RunRows<kKind, 32>(args, batch, stream);
  if constexpr (kKind != WeightKind::kFp8) RunRows<kKind, 64>(args, batch, stream);
}

}  // namespace tandem::gpu_worker::cuda::portable
