// Packed weights times rows of floats, in chains of fma whose order tensor cores would not keep:
// lane 2 o + p has output o and the columns of parity p. ExpertFloatsKernel: bf16, f16 and fp8,
// even and odd columns in a chain each per 32 columns. ExpertExactKernel: any format's exact values
// times f32 rows, four chains by column modulo 4; made to be right, the strict mode has no hurry.
#pragma once

#include "gpu_worker/backend/cuda/kernels/experts/panel_codes.h"

namespace tandem::gpu_worker::cuda::experts {

using kernels::kBlockCols;

constexpr int FloatBytes(DType type) {
  return type == DType::kF8E4M3 ? 1 : type == DType::kF32 ? 4 : 2;
}

// Four chunks of 32 columns a stage.
template <DType kType>
struct FloatsForm {
  static constexpr int kStageChunks = 4;
  static constexpr int kStageCols = kStageChunks * kBlockCols;
  static constexpr int kChunkBytes = kBlockCols * FloatBytes(kType) * kernels::kPanelRows;
  // fp8: a line of scales before every scale_cols columns, at most one a chunk.
  static constexpr int kStageBytes =
      kStageChunks * (kChunkBytes + (kType == DType::kF8E4M3 ? kLine : 0));
  static constexpr int kRowStageBytes = kStageCols * 4;
  static constexpr int kRowStride = kRowStageBytes;

  // fp8: of the line of scales before the stage's first chunk, if there is one.
  static __device__ __forceinline__ int64_t Begin(const ProductWork& w, int stage) {
    const int64_t chunk = static_cast<int64_t>(stage) * kStageChunks;
    if constexpr (kType != DType::kF8E4M3) return chunk * kChunkBytes;
    return chunk * kChunkBytes + (chunk * kBlockCols + w.scale_cols - 1) / w.scale_cols * kLine;
  }
};

// e4m3 as lib/kernels reads it: codes of NaN do not occur in weights.
__device__ __forceinline__ float E4m3Weight(uint32_t code) {
  return __uint_as_float((code & 0x80u) << 24 | (code & 0x7fu) << 20) * 0x1p120f;
}

// The weight of output o at column 2 pair + parity of a chunk.
template <DType kType>
__device__ __forceinline__ float FloatWeight(const unsigned char* chunk, int pair, int o,
                                             int parity) {
  if constexpr (kType == DType::kF32) {
    return At<float>(chunk + (2 * pair + parity) * kLine + 4 * o);
  } else if constexpr (kType == DType::kBF16) {
    return FromBf16(At<uint16_t>(chunk + pair * kLine + 4 * o + 2 * parity));
  } else if constexpr (kType == DType::kF16) {
    return FromF16(At<uint16_t>(chunk + pair * kLine + 32 * parity + 2 * o));
  } else {
    return E4m3Weight(chunk[pair / 2 * kLine + 4 * o + pair % 2 + 2 * parity]);
  }
}

// Whether a line of scales lies before the chunk at column k.
template <DType kType>
__device__ __forceinline__ bool HasScales(const ProductWork& w, int64_t k) {
  return kType == DType::kF8E4M3 && k % w.scale_cols == 0;
}

template <DType kType>
__global__ void __launch_bounds__(kPanelWarps* kWarpThreads)
    ExpertFloatsKernel(const ProductWork w) {
  using Form = FloatsForm<kType>;
  const int64_t panel = static_cast<int64_t>(blockIdx.x) * kPanelWarps + WarpId();
  if (panel >= w.panels) return;
  const ProductTile tile = w.tiles[blockIdx.y];
  const int o = LaneId() / 2, parity = LaneId() % 2, rows = static_cast<int>(tile.rows);
  float acc[kExpertTileRows] = {}, part[kExpertTileRows] = {};
  float scale = 0.0f;
  PanelStream<Form> stream(w, tile, panel);
  for (int stage = 0; stage < w.stages; ++stage) {
    const unsigned char* chunk = stream.Next(stage);
    const unsigned char* x = chunk + Form::kStageBytes + 64 * parity;
    int64_t k = static_cast<int64_t>(stage) * Form::kStageCols;
    for (int c = 0; c < Form::kStageChunks && k < w.cols; ++c, k += kBlockCols) {
      if (HasScales<kType>(w, k)) {
        if (k > 0) {
#pragma unroll
          for (int r = 0; r < kExpertTileRows; ++r) acc[r] = FmaFtz(part[r], scale, acc[r]);
        }
#pragma unroll
        for (int r = 0; r < kExpertTileRows; ++r) part[r] = 0.0f;
        scale = At<float>(chunk + 4 * o);
        chunk += kLine;
      }
      float weights[16];
#pragma unroll
      for (int i = 0; i < 16; ++i) weights[i] = FloatWeight<kType>(chunk, i, o, parity);
#pragma unroll
      for (int r = 0; r < kExpertTileRows; ++r) {
        if (r >= rows) break;
        const float* const values = reinterpret_cast<const float*>(x + r * Form::kRowStride);
        float chain = 0.0f;
#pragma unroll
        for (int i = 0; i < 16; ++i) chain = FmaFtz(weights[i], values[i], chain);
        const float both = AddFtz(chain, __shfl_xor_sync(kFullWarp, chain, 1));
        float& sum = kType == DType::kF8E4M3 ? part[r] : acc[r];
        sum = AddFtz(sum, both);
      }
      chunk += Form::kChunkBytes;
      x += kBlockCols * 4;
    }
  }
#pragma unroll
  for (int r = 0; r < kExpertTileRows; ++r) {
    if (kType == DType::kF8E4M3) acc[r] = FmaFtz(part[r], scale, acc[r]);
    const int64_t output = 16 * panel + o;
    if (parity == 0 && r < rows && output < w.outputs) Deliver(w, tile, r, output, acc[r]);
  }
}

// --- Exact values, f32 rows.

template <DType kType>
constexpr bool IsCodes() {
  return kType != DType::kF32 && kType != DType::kF16 && kType != DType::kBF16 &&
         kType != DType::kF8E4M3;
}

// Quantized weights with float rows.
template <DType kType>
struct ExactCodesForm : CodesForm<kType> {
  static constexpr int kRowStageBytes = kRecordCols * 4;
  static constexpr int kRowStride = kRowStageBytes;
};
template <DType kType, bool kCodes = IsCodes<kType>()>
struct ExactFormOf {
  using Form = FloatsForm<kType>;
};
template <DType kType>
struct ExactFormOf<kType, true> {
  using Form = ExactCodesForm<kType>;
};

// Two columns of one parity, two apart: chains `parity` and `parity` + 2. sums[2 r + chain].
template <int kRowStride>
__device__ __forceinline__ void AddExact(const float (&weights)[2], const unsigned char* x,
                                         int rows, float (&sums)[2 * kExpertTileRows]) {
#pragma unroll
  for (int r = 0; r < kExpertTileRows; ++r) {
    if (r >= rows) break;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      sums[2 * r + i] = fmaf(weights[i], At<float>(x + r * kRowStride + 4 * i), sums[2 * r + i]);
    }
  }
}

// Line t + 4 kHalf of a block: four columns.
template <DType kType, int kHalf>
__device__ __forceinline__ void AddExactLine(const unsigned char* block, const BlockScales& s,
                                             int t, const unsigned char* x, int rows,
                                             float (&sums)[2 * kExpertTileRows]) {
  constexpr PackedForm kForm = kernels::FormOf(kType);
  constexpr int kGroup = kForm.groups == 2 ? kHalf : 0;
  const int o = LaneId() / 2, parity = LaneId() % 2;
  const uint32_t word = CodeWord<kType, kHalf>(block, t, o, s.shift);
  float weights[2];
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const int code = static_cast<int>(word >> (8 * (parity + 2 * i)) & 255u);
    weights[i] = __fmul_rn(s.scale[kGroup], SmallToFloat(code - kForm.zero));
    if constexpr (kForm.has_mins()) weights[i] = __fsub_rn(weights[i], s.min[kGroup]);
  }
  AddExact<ExactCodesForm<kType>::kRowStride>(weights, x + 8 * (t + 4 * kHalf), rows, sums);
}

template <DType kType>
__device__ __forceinline__ void AddExactStage(const ProductWork& w, int stage,
                                              const unsigned char* bytes, int rows, float* scale,
                                              float (&sums)[2 * kExpertTileRows]) {
  using Form = typename ExactFormOf<kType>::Form;
  const int o = LaneId() / 2, parity = LaneId() % 2;
  const unsigned char* x = bytes + Form::kStageBytes + 64 * parity;
  if constexpr (IsCodes<kType>()) {
    constexpr PackedForm kForm = kernels::FormOf(kType);
    constexpr int kGroupBlocks = kForm.group_blocks();
    // The columns there are, without the padding of a group.
    const int64_t left = w.cols / kBlockCols - static_cast<int64_t>(stage) * Form::kStageBlocks;
    for (int b = 0; b < Form::kStageBlocks && b < left; ++b, x += kBlockCols * 4) {
      const unsigned char* const group = bytes + b / kGroupBlocks * kForm.group_bytes();
      const BlockScales s =
          ScalesOf<kType>(group, GroupScalesOf<kType>(group, o), b % kGroupBlocks, o);
      const unsigned char* const block =
          group + kForm.head_bytes() + b % kGroupBlocks * kForm.block_bytes();
      for (int t = 0; t < 4; ++t) AddExactLine<kType, 0>(block, s, t, x, rows, sums);
      for (int t = 0; t < 4; ++t) AddExactLine<kType, 1>(block, s, t, x, rows, sums);
    }
  } else {
    const unsigned char* chunk = bytes;
    int64_t k = static_cast<int64_t>(stage) * Form::kStageCols;
    for (int c = 0; c < Form::kStageChunks && k < w.cols; ++c, k += kBlockCols) {
      if (HasScales<kType>(w, k)) {
        *scale = At<float>(chunk + 4 * o);
        chunk += kLine;
      }
      // Four columns at a time, the last of them perhaps zeros.
      for (int i = 0; i < 16 && k + 2 * i < w.cols; i += 2) {
        float weights[2];
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          weights[j] = FloatWeight<kType>(chunk, i + j, o, parity);
          if constexpr (kType == DType::kF8E4M3) weights[j] = __fmul_rn(weights[j], *scale);
        }
        AddExact<Form::kRowStride>(weights, x + 4 * i, rows, sums);
      }
      chunk += Form::kChunkBytes;
      x += kBlockCols * 4;
    }
  }
}

template <DType kType>
__global__ void __launch_bounds__(kPanelWarps* kWarpThreads)
    ExpertExactKernel(const ProductWork w) {
  const int64_t panel = static_cast<int64_t>(blockIdx.x) * kPanelWarps + WarpId();
  if (panel >= w.panels) return;
  const ProductTile tile = w.tiles[blockIdx.y];
  const int rows = static_cast<int>(tile.rows);
  float sums[2 * kExpertTileRows] = {};
  float scale = 1.0f;
  PanelStream<typename ExactFormOf<kType>::Form> stream(w, tile, panel);
  for (int stage = 0; stage < w.stages; ++stage) {
    AddExactStage<kType>(w, stage, stream.Next(stage), rows, &scale, sums);
  }
#pragma unroll
  for (int r = 0; r < kExpertTileRows; ++r) {
    if (r >= rows) break;
    const float low = __fadd_rn(sums[2 * r], __shfl_xor_sync(kFullWarp, sums[2 * r], 1));
    const float high = __fadd_rn(sums[2 * r + 1], __shfl_xor_sync(kFullWarp, sums[2 * r + 1], 1));
    const int64_t output = 16 * panel + LaneId() / 2;
    if (LaneId() % 2 == 0 && output < w.outputs) {
      Deliver(w, tile, r, output, __fadd_rn(low, high));
    }
  }
}

template <typename List>
bool LaunchChains(List types, DType type, const ProductWork& work, int64_t tile_count,
                  Stream stream) {
  return StartOneOf(types, type, [&]<DType kType>() {
    LaunchPanels<FloatsForm<kType>>(ExpertFloatsKernel<kType>, work, tile_count, stream);
  });
}
template <typename List>
bool LaunchExact(List types, DType type, const ProductWork& work, int64_t tile_count,
                 Stream stream) {
  return StartOneOf(types, type, [&]<DType kType>() {
    LaunchPanels<typename ExactFormOf<kType>::Form>(ExpertExactKernel<kType>, work, tile_count,
                                                    stream);
  });
}

}  // namespace tandem::gpu_worker::cuda::experts
