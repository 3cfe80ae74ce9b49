// Packed block-quantized weights (lib/kernels/packed_form.h) times quantized rows, on tensor cores.
// A line of a block holds four columns of sixteen outputs, which is how the m16n8k32 product wants
// its left side: lane 4 g + t finds columns 4 t .. 4 t + 3 of outputs g and g + 8 as one word each,
// and 16 columns further the other two. So a block is one product, or two of sixteen columns each
// where it has two scales, and its sums are exact. Scales, minima and accumulators are the lanes'
// own, in the order of lib/kernels/panel.h.
#pragma once

#include "gpu_worker/backend/cuda/kernels/experts/panel_stream.h"
#include "gpu_worker/backend/cuda/simt/mma.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"

namespace tandem::gpu_worker::cuda::experts {

using kernels::Head;
using kernels::PackedForm;
using kernels::Planes;

// A stage is eight blocks, one record of the rows, whatever the format's groups are.
template <DType kType>
struct CodesForm {
  static constexpr PackedForm kForm = kernels::FormOf(kType);
  static constexpr int kStageCols = kRecordCols;
  static constexpr int kStageBlocks = 8;
  static constexpr int kStageBytes = kStageBlocks / kForm.group_blocks() * kForm.group_bytes();
  static constexpr int kRowStageBytes = kRecordBytes;
  // 84 words: rows 0..7 begin in different banks, four apart.
  static constexpr int kRowStride = kRecordBytes + 16;

  static __device__ __forceinline__ int64_t Begin(const ProductWork&, int stage) {
    return static_cast<int64_t>(stage) * kStageBytes;
  }
};

// Bytes i of the result: level number `byte i` of a list of sixteen, each byte of `indices` < 16.
struct LevelWords {
  uint32_t w[4];
};
constexpr LevelWords LevelsAsWords(const PackedForm& form) {
  LevelWords words = {};
  for (int i = 0; i < 16; ++i)
    words.w[i / 4] |= static_cast<uint32_t>(form.levels[i]) << (i % 4 * 8);
  return words;
}

template <bool kSixteen>
__device__ __forceinline__ uint32_t LevelsOf(const LevelWords& levels, uint32_t indices) {
  // Four nibbles in the low half: what __byte_perm selects by.
  const uint32_t chosen = __byte_perm(indices | indices >> 4, 0, 0x4420);
  const uint32_t low = __byte_perm(levels.w[0], levels.w[1], chosen & 0x7777);
  if constexpr (!kSixteen) return low;
  const uint32_t high = __byte_perm(levels.w[2], levels.w[3], chosen & 0x7777);
  return __byte_perm(low, high, 0x3210 | (chosen & 0x8888) >> 1);
}

// Codes of columns 4 j .. 4 j + 3, j = t + 4 kHalf, of output `o`, as bytes of which the form's
// zero means 0. `shift`: 2 in each byte where a trit is shifted up.
template <DType kType, int kHalf>
__device__ __forceinline__ uint32_t CodeWord(const unsigned char* block, int t, int o,
                                             uint32_t shift) {
  constexpr PackedForm kForm = kernels::FormOf(kType);
  const unsigned char* const word = block + 4 * o;
  uint32_t codes = 0;
  if constexpr (kForm.planes == Planes::kBytes) {
    codes = At<uint32_t>(word + (t + 4 * kHalf) * kLine);
  } else if constexpr (kForm.planes == Planes::kPairs || kForm.planes == Planes::kPairsBits) {
    codes = At<uint32_t>(word + kHalf * kLine) >> (2 * t) & 0x03030303u;
    if constexpr (kForm.planes == Planes::kPairsBits) {
      const uint32_t bits = At<uint32_t>(word + 2 * kLine) >> (t + 4 * kHalf);
      codes |= (bits & 0x01010101u) << 2;
    }
  } else {
    codes = At<uint32_t>(word + t * kLine) >> (4 * kHalf) & 0x0f0f0f0fu;
    if constexpr (kForm.planes == Planes::kNibblesBits) {
      const uint32_t bits = At<uint32_t>(word + 4 * kLine) >> (t + 4 * kHalf);
      codes |= (bits & 0x01010101u) << 4;
    } else if constexpr (kForm.planes == Planes::kNibblesPairs) {
      const uint32_t pairs = At<uint32_t>(word + (4 + kHalf) * kLine) >> (2 * t);
      codes |= (pairs & 0x03030303u) << 4;
    }
  }
  if constexpr (kForm.head == Head::kTrit) {
    return codes << 3 | shift;
  } else if constexpr (kForm.has_levels) {
    constexpr LevelWords kLevels = LevelsAsWords(kForm);
    constexpr bool kSixteen = kForm.planes == Planes::kNibbles;
    return LevelsOf<kSixteen>(kLevels, codes);
  } else {
    return codes;
  }
}

// Scales and minima of one block of output `o`.
struct CodeScales {
  float scale[2] = {}, min[2] = {};
  uint32_t shift = 0;
};

template <DType kType>
__device__ __forceinline__ CodeScales ScalesOf(const unsigned char* head, int b, int o) {
  constexpr PackedForm kForm = kernels::FormOf(kType);
  CodeScales s;
  if constexpr (kForm.head == Head::kHalf) {
    s.scale[0] = FromF16(At<uint16_t>(head + 32 * b + 2 * o));
    return s;
  }
  float super = FromF16(At<uint16_t>(head + 2 * o)), super_min = 0.0f;
  if constexpr (kForm.super_factor != 1.0f) super = __fmul_rn(super, kForm.super_factor);
  if constexpr (kForm.has_mins()) super_min = FromF16(At<uint16_t>(head + 32 + 2 * o));
  const unsigned char* const codes =
      head + kForm.head_super_bytes() + b * kForm.head_block_bytes() + o;
  if constexpr (kForm.head == Head::kHalfMin) {
    s.scale[0] = super;
    s.min[0] = super_min;
  } else if constexpr (kForm.head == Head::kTrit) {
    const int byte = codes[0];
    s.scale[0] = __fmul_rn(super, SmallToFloat(byte & 0x7f));
    s.shift = static_cast<uint32_t>((255 - byte) >> 6 & 2) * 0x01010101u;
  } else if constexpr (kForm.head == Head::kSuper) {
#pragma unroll
    for (int g = 0; g < kForm.groups; ++g) {
      s.scale[g] = __fmul_rn(super, SmallToFloat(static_cast<signed char>(codes[16 * g])));
    }
  } else if constexpr (kForm.groups == 1) {
    s.scale[0] = __fmul_rn(super, SmallToFloat(codes[0]));
    s.min[0] = __fmul_rn(super_min, SmallToFloat(codes[16]));
  } else {
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      const int byte = codes[16 * g];
      s.scale[g] = __fmul_rn(super, SmallToFloat(byte & 15));
      s.min[g] = __fmul_rn(super_min, SmallToFloat(byte >> 4));
    }
  }
  return s;
}

// One row's numbers of one block, as AddScaled wants them.
struct RowBlock {
  float scale;
  int32_t sums[2];  // of codes
};
__device__ __forceinline__ RowBlock RowBlockOf(const unsigned char* row, int b) {
  const auto both = At<uint32_t>(row + kRecordSums + 4 * b);
  return {At<float>(row + kRecordScales + 4 * b),
          {static_cast<int16_t>(both & 0xffff), static_cast<int16_t>(both >> 16)}};
}

// acc[2 i + j]: output i of the lane's two, row j of its two.
template <DType kType>
__device__ __forceinline__ void AddScaled(const CodeScales (&s)[2], int g, const int32_t (&sums)[4],
                                          const RowBlock (&rows)[2], float (&acc)[4]) {
  constexpr PackedForm kForm = kernels::FormOf(kType);
#pragma unroll
  for (int j = 0; j < 2; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      acc[2 * i + j] = fmaf(MagicToFloat(sums[2 * i + j]), __fmul_rn(s[i].scale[g], rows[j].scale),
                            acc[2 * i + j]);
    }
    if constexpr (kForm.has_mins()) {
      const int32_t whole = kForm.groups == 2 ? rows[j].sums[g] : rows[j].sums[0] + rows[j].sums[1];
      const float sum = __fmul_rn(rows[j].scale, SmallToFloat(whole));
#pragma unroll
      for (int i = 0; i < 2; ++i) acc[2 * i + j] = fmaf(-s[i].min[g], sum, acc[2 * i + j]);
    }
  }
}

// What a sum begins with, so that codes need no offset.
template <DType kType>
__device__ __forceinline__ int32_t SumStart(const RowBlock& row, int g) {
  constexpr PackedForm kForm = kernels::FormOf(kType);
  if constexpr (kForm.zero == 0) return kWholeMagicBits;
  return kWholeMagicBits -
         kForm.zero * (kForm.groups == 2 ? row.sums[g] : row.sums[0] + row.sums[1]);
}

template <DType kType>
__device__ __forceinline__ void AddBlock(const unsigned char* group, int b, int at,
                                         const unsigned char* const (&rows)[2],
                                         const unsigned char* column_row, float (&acc)[4]) {
  constexpr PackedForm kForm = kernels::FormOf(kType);
  const int g = LaneId() / 4, t = LaneId() % 4;
  const unsigned char* const block = group + kForm.head_bytes() + b * kForm.block_bytes();
  const CodeScales scales[2] = {ScalesOf<kType>(group, b, g), ScalesOf<kType>(group, b, g + 8)};
  const RowBlock row_blocks[2] = {RowBlockOf(rows[0], at), RowBlockOf(rows[1], at)};
  const uint32_t left[4] = {CodeWord<kType, 0>(block, t, g, scales[0].shift),
                            CodeWord<kType, 0>(block, t, g + 8, scales[1].shift),
                            CodeWord<kType, 1>(block, t, g, scales[0].shift),
                            CodeWord<kType, 1>(block, t, g + 8, scales[1].shift)};
  const uint32_t right[2] = {At<uint32_t>(column_row + 32 * at + 4 * t),
                             At<uint32_t>(column_row + 32 * at + 16 + 4 * t)};
#pragma unroll
  for (int group_of = 0; group_of < kForm.groups; ++group_of) {
    const int32_t even = SumStart<kType>(row_blocks[0], group_of);
    const int32_t odd = SumStart<kType>(row_blocks[1], group_of);
    int32_t sums[4] = {even, odd, even, odd};
    if constexpr (kForm.groups == 1) {
      MmaU8S8(sums, left, right);
    } else {
      const uint32_t half[2] = {left[2 * group_of], left[2 * group_of + 1]};
      MmaU8S8(sums, half, right[group_of]);
    }
    AddScaled<kType>(scales, group_of, sums, row_blocks, acc);
  }
}

template <DType kType>
__global__ void __launch_bounds__(kPanelWarps* kWarpThreads)
    ExpertCodesKernel(const ProductWork w) {
  using Form = CodesForm<kType>;
  constexpr PackedForm kForm = Form::kForm;
  constexpr int kGroupBlocks = kForm.group_blocks();
  const int64_t panel = static_cast<int64_t>(blockIdx.x) * kPanelWarps + WarpId();
  if (panel >= w.panels) return;
  const ProductTile tile = w.tiles[blockIdx.y];
  const int g = LaneId() / 4, t = LaneId() % 4, last = static_cast<int>(tile.rows) - 1;
  // Columns of the product without a row repeat the last one; nobody reads them.
  const auto row_offset = [&](int row) {
    return Form::kStageBytes + (row < last ? row : last) * Form::kRowStride;
  };
  const int offsets[2] = {row_offset(2 * t), row_offset(2 * t + 1)}, column_offset = row_offset(g);
  float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  PanelStream<Form> stream(w, tile, panel);
  for (int stage = 0; stage < w.stages; ++stage) {
    const unsigned char* const bytes = stream.Next(stage);
    const unsigned char* const rows[2] = {bytes + offsets[0], bytes + offsets[1]};
    const int size = static_cast<int>(StageEnd<Form>(w, stage) - Form::Begin(w, stage));
    const int blocks = size / kForm.group_bytes() * kGroupBlocks;
#pragma unroll
    for (int b = 0; b < Form::kStageBlocks; ++b) {
      if (b < blocks) {
        AddBlock<kType>(bytes + b / kGroupBlocks * kForm.group_bytes(), b % kGroupBlocks, b, rows,
                        bytes + column_offset, acc);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = 2 * t + i % 2;
    const int64_t output = 16 * panel + g + i / 2 * 8;
    if (row <= last && output < w.outputs) Deliver(w, tile, row, output, acc[i]);
  }
}

template <DType kType>
void LaunchCodes(const ProductWork& work, int64_t tile_count, Stream stream) {
  LaunchPanels<CodesForm<kType>>(ExpertCodesKernel<kType>, work, tile_count, stream);
}

}  // namespace tandem::gpu_worker::cuda::experts
