// Shapes of the portable linear kernel: how its thread blocks cut a product, what a stage of its
// pipeline holds and where in shared memory. Plain functions, so that a test on the host can go
// through every address.
//
// A thread block makes 16, 32 or 64 rows of 128 outputs from a range of inputs. Eight warps: two
// along the outputs, 64 each, by four along the inputs of every stage, so that a stage's weights
// and inputs are read from shared memory by one warp (two, for inputs) and each weight is decoded
// once. The four sums of an output are added at the end, in order. Which products a sum has, and in
// which order, depends on the format alone and never on the row tile.
//
// Sizes, for an H200: 4.3 TB/s (measured) times some 700 ns of latency under load are 3 MB on their
// way, 23 KB for each of 132 multiprocessors. Up to 32 rows, two blocks share a multiprocessor,
// with four stages or more of 8 to 16 KB of weights, all but one of them under way: 64 KB and more.
// kSharedBytesMax is what the smallest GPUs since sm_80 give a block (sm_86 and sm_89: 99 KB), so
// that one configuration runs on all of them.
#pragma once

#include <algorithm>
#include <cstdint>

#include "gpu_worker/backend/cuda/kernels/linear/pack.h"

namespace tandem::gpu_worker::cuda {

inline constexpr int kPortableThreads = 256;
inline constexpr int kWarpsAlongOutputs = 2, kWarpsAlongInputs = 4;
inline constexpr int64_t kBlockOutputs = kWarpsAlongOutputs * kTileOutputs;
inline constexpr int64_t kBlockBytes16 = 16;  // of one copy
inline constexpr int64_t kPortableSharedBytesMax = 99 << 10;
inline constexpr int kStagesMax = 8;
// Inputs are split in whole blocks of so many: a scale's inputs of every format.
inline constexpr int64_t kSplitInputs = 128;

TANDEM_HOST_DEVICE constexpr bool IsIntKind(WeightKind kind) {
  return kind == WeightKind::kInt8 || kind == WeightKind::kInt4;
}

TANDEM_HOST_DEVICE constexpr int64_t WeightBits(WeightKind kind) {
  return kind == WeightKind::kBf16 ? 16 : kind == WeightKind::kInt4 ? 4 : 8;
}

// One format and row tile. Offsets and sizes in bytes, of one stage.
template <WeightKind kKind, int kRows>
struct PortableShape {
  static_assert(kRows == 16 || kRows == 32 || kRows == 64);
  // Of bf16 half as many, so that a stage is not much larger than those of the other formats.
  static constexpr int64_t kInputs = kKind == WeightKind::kBf16 ? 64 : 128;
  static constexpr int64_t kBands = kInputs / kTileInputs;
  static constexpr int64_t kBandsOfWarp = kBands / kWarpsAlongInputs;
  static constexpr int64_t kTileBytes = kTileInputs * kTileOutputs * WeightBits(kKind) / 8;
  static constexpr int64_t kBandBytes = kWarpsAlongOutputs * kTileBytes;
  static constexpr int64_t kWeightBytes = kBands * kBandBytes;
  // fp8: e4m3, as weights are; else bf16.
  static constexpr int64_t kInputRowBytes = kInputs * (kKind == WeightKind::kFp8 ? 1 : 2);
  static constexpr int64_t kInputBytes = kRows * kInputRowBytes;
  // fp8: a scale a row. int: of up to two groups, a bf16 an output.
  static constexpr int64_t kScaleBytes = kKind == WeightKind::kFp8 ? kRows * 4
                                         : IsIntKind(kKind)        ? 2 * kBlockOutputs * 2
                                                                   : 0;
  static constexpr int64_t kInputsAt = kWeightBytes;
  static constexpr int64_t kScalesAt = kInputsAt + kInputBytes;
  static constexpr int64_t kStageBytes = kScalesAt + kScaleBytes;
  // Behind stages and exchange: what the block was told to do.
  static constexpr int64_t kWorkBytes = 32;
  static constexpr int kStages = static_cast<int>(
      std::min<int64_t>(kStagesMax, (kPortableSharedBytesMax - kWorkBytes) / kStageBytes));
  static_assert(kStages >= 3);

  // Sums that a warp hands to another: of one fourth of its outputs, f32 [sums][lane].
  static constexpr int kSumsHanded = kRows / 16 * 4 * static_cast<int>(kTileOutputs) / 8 / 4;
  static constexpr int64_t kExchangeBytes = int64_t{kWarpsAlongOutputs} * kWarpsAlongInputs *
                                            (kWarpsAlongInputs - 1) * kSumsHanded * 32 * 4;
  static constexpr int64_t kWorkAt = std::max(kStages * kStageBytes, kExchangeBytes);
  static constexpr int64_t kSharedBytes = kWorkAt + kWorkBytes;
  static_assert(kSharedBytes <= kPortableSharedBytesMax);
};

// Where chunk c (of 16 bytes) of row r of inputs lies among a stage's chunks: exclusive-or with the
// row, so that eight rows' chunks c, which ldmatrix reads at once, lie in eight groups of banks.
TANDEM_HOST_DEVICE constexpr int InputChunkPlace(int row, int chunk, int chunks_per_row) {
  return row * chunks_per_row + (chunk ^ (row & 7));
}

// Where chunk i of a tile of weights lies. A thread reads int8 in two chunks, 2 t and 2 t + 1: one
// of each from eight threads are in only four groups of banks, unless every other four threads' are
// swapped. The other formats are read in order.
TANDEM_HOST_DEVICE constexpr int WeightChunkPlace(WeightKind kind, int i) {
  return kind == WeightKind::kInt8 ? i ^ (i >> 3 & 1) : i;
}

// Where the sum number `sum` that warp `from` along the inputs hands to warp `to` lies among the
// f32 of the exchange.
TANDEM_HOST_DEVICE constexpr int ExchangePlace(int warp_along_outputs, int to, int from, int sum,
                                               int sums, int lane) {
  const int slot = from < to ? from : from - 1;
  return (((warp_along_outputs * kWarpsAlongInputs + to) * (kWarpsAlongInputs - 1) + slot) * sums +
          sum) *
             32 +
         lane;
}

// Into how many parts the inputs are cut, each a thread block's. As many as it takes to keep two
// blocks on each of an H200's 132 multiprocessors busy, but not so many that adding the parts
// (8 bytes of traffic per output, row and part) counts beside reading the weights: at most 16, of
// 256 inputs at least. A function of the matrix alone: bits must not depend on the GPU or the rows.
constexpr int64_t SplitsOfLinear(int64_t outputs, int64_t inputs, int64_t batch) {
  const int64_t blocks = (outputs + kBlockOutputs - 1) / kBlockOutputs * batch;
  const int64_t wanted = 2 * 132 / blocks;
  const int64_t most = std::min<int64_t>(16, (inputs + 2 * kSplitInputs - 1) / (2 * kSplitInputs));
  return std::max<int64_t>(1, std::min(wanted, most));
}

}  // namespace tandem::gpu_worker::cuda
