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
#include "gpu_worker/backend/cuda/simt/vector_access.h"

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

// What a group of blocks has in common for output `o`: kSuper, kSuperMin, kTrit and kHalfMin.
struct GroupScales {
  float super = 0.0f, super_min = 0.0f;
};

template <DType kType>
__device__ __forceinline__ GroupScales GroupScalesOf(const unsigned char* head, int o) {
  constexpr PackedForm kForm = kernels::FormOf(kType);
  GroupScales group;
  if constexpr (kForm.head != Head::kHalf) group.super = FromF16(At<uint16_t>(head + 2 * o));
  if constexpr (kForm.super_factor != 1.0f) {
    group.super = __fmul_rn(group.super, kForm.super_factor);
  }
  if constexpr (kForm.has_mins()) group.super_min = FromF16(At<uint16_t>(head + 32 + 2 * o));
  return group;
}

// Scales and minima of block `b` of a group, of output `o`.
struct BlockScales {
  float scale[2] = {}, min[2] = {};
  uint32_t shift = 0;
};

template <DType kType>
__device__ __forceinline__ BlockScales ScalesOf(const unsigned char* head, const GroupScales& group,
                                                int b, int o) {
  constexpr PackedForm kForm = kernels::FormOf(kType);
  BlockScales s;
  const unsigned char* const codes =
      head + kForm.head_super_bytes() + b * kForm.head_block_bytes() + o;
  if constexpr (kForm.head == Head::kHalf) {
    s.scale[0] = FromF16(At<uint16_t>(head + 32 * b + 2 * o));
  } else if constexpr (kForm.head == Head::kHalfMin) {
    s.scale[0] = group.super;
    s.min[0] = group.super_min;
  } else if constexpr (kForm.head == Head::kTrit) {
    const int byte = codes[0];
    s.scale[0] = __fmul_rn(group.super, SmallToFloat(byte & 0x7f));
    s.shift = static_cast<uint32_t>((255 - byte) >> 6 & 2) * 0x01010101u;
  } else if constexpr (kForm.head == Head::kSuper) {
#pragma unroll
    for (int g = 0; g < kForm.groups; ++g) {
      s.scale[g] = __fmul_rn(group.super, SmallToFloat(static_cast<signed char>(codes[16 * g])));
    }
  } else if constexpr (kForm.groups == 1) {
    s.scale[0] = __fmul_rn(group.super, SmallToFloat(codes[0]));
    s.min[0] = __fmul_rn(group.super_min, SmallToFloat(codes[16]));
  } else {
#pragma unroll
    for (int g = 0; g < 2; ++g) {
      const int byte = codes[16 * g];
      s.scale[g] = __fmul_rn(group.super, SmallToFloat(byte & 15));
      s.min[g] = __fmul_rn(group.super_min, SmallToFloat(byte >> 4));
    }
  }
  return s;
}

// One row's numbers of one block. sums: two int16, of sixteen codes each.
struct RowBlock {
  float scale;
  uint32_t sums;
};

// `start` plus `factor` times the codes that share weight scale `g`; |factor| <= 128.
template <DType kType>
__device__ __forceinline__ int32_t PlusCodes(int32_t start, int factor, uint32_t sums, int g) {
  constexpr int kGroups = kernels::FormOf(kType).groups;
  const int byte = factor & 255;
  const int factors = kGroups == 1 ? byte | byte << 8 : byte << (8 * g);
  return __dp2a_lo(static_cast<int>(sums), factors, start);
}

// acc[2 i + j]: output i of the lane's two, row j of its two. `sums` begin at kWholeMagicBits.
template <DType kType>
__device__ __forceinline__ void AddScaled(const BlockScales (&s)[2], int g,
                                          const int32_t (&sums)[4], const RowBlock (&rows)[2],
                                          float (&acc)[4]) {
  constexpr PackedForm kForm = kernels::FormOf(kType);
#pragma unroll
  for (int j = 0; j < 2; ++j) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      acc[2 * i + j] = fmaf(MagicToFloat(sums[2 * i + j]), __fmul_rn(s[i].scale[g], rows[j].scale),
                            acc[2 * i + j]);
    }
    if constexpr (kForm.has_mins()) {
      const int32_t whole = PlusCodes<kType>(kWholeMagicBits, 1, rows[j].sums, g);
      const float sum = __fmul_rn(rows[j].scale, MagicToFloat(whole));
#pragma unroll
      for (int i = 0; i < 2; ++i) acc[2 * i + j] = fmaf(-s[i].min[g], sum, acc[2 * i + j]);
    }
  }
}

// Block `b` of a group; `column`: the lane's four codes of the block's first half.
template <DType kType>
__device__ __forceinline__ void AddBlock(const unsigned char* head, const GroupScales (&groups)[2],
                                         int b, const unsigned char* column,
                                         const RowBlock (&rows)[2], float (&acc)[4]) {
  constexpr PackedForm kForm = kernels::FormOf(kType);
  const int o = LaneId() / 4, t = LaneId() % 4;
  const unsigned char* const block = head + kForm.head_bytes() + b * kForm.block_bytes();
  const BlockScales scales[2] = {ScalesOf<kType>(head, groups[0], b, o),
                                 ScalesOf<kType>(head, groups[1], b, o + 8)};
  const uint32_t left[4] = {CodeWord<kType, 0>(block, t, o, scales[0].shift),
                            CodeWord<kType, 0>(block, t, o + 8, scales[1].shift),
                            CodeWord<kType, 1>(block, t, o, scales[0].shift),
                            CodeWord<kType, 1>(block, t, o + 8, scales[1].shift)};
  const uint32_t right[2] = {At<uint32_t>(column), At<uint32_t>(column + 16)};
#pragma unroll
  for (int g = 0; g < kForm.groups; ++g) {
    // Minus the form's zero times the codes, so that the weights' codes need no offset.
    int32_t start[2] = {kWholeMagicBits, kWholeMagicBits};
#pragma unroll
    for (int j = 0; j < 2 && kForm.zero != 0; ++j) {
      start[j] = PlusCodes<kType>(kWholeMagicBits, -kForm.zero, rows[j].sums, g);
    }
    int32_t sums[4] = {start[0], start[1], start[0], start[1]};
    if constexpr (kForm.groups == 1) {
      MmaU8S8(sums, left, right);
    } else {
      const uint32_t half[2] = {left[2 * g], left[2 * g + 1]};
      MmaU8S8(sums, half, right[g]);
    }
    AddScaled<kType>(scales, g, sums, rows, acc);
  }
}

// Numbers of the lane's two rows for four blocks.
struct RowQuad {
  Words4 scales, sums;
};
__device__ __forceinline__ RowQuad RowQuadOf(const unsigned char* row, int quad) {
  return {Load16(row + kRecordScales + 16 * quad), Load16(row + kRecordSums + 16 * quad)};
}
__device__ __forceinline__ RowBlock Of(const RowQuad& quad, int i) {
  return {__uint_as_float(quad.scales.w[i]), quad.sums.w[i]};
}

// All eight blocks of a stage.
template <DType kType>
__device__ __forceinline__ void AddStage(const unsigned char* stage, const unsigned char* column,
                                         const unsigned char* const (&rows)[2], float (&acc)[4]) {
  constexpr PackedForm kForm = kernels::FormOf(kType);
  constexpr int kGroupBlocks = kForm.group_blocks();
  const int o = LaneId() / 4;
  GroupScales groups[2];
#pragma unroll
  for (int quad = 0; quad < 2; ++quad) {
    const RowQuad row_quads[2] = {RowQuadOf(rows[0], quad), RowQuadOf(rows[1], quad)};
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const int at = 4 * quad + i;
      const unsigned char* const head = stage + at / kGroupBlocks * kForm.group_bytes();
      if (at % kGroupBlocks == 0) {
        groups[0] = GroupScalesOf<kType>(head, o);
        groups[1] = GroupScalesOf<kType>(head, o + 8);
      }
      const RowBlock row_blocks[2] = {Of(row_quads[0], i), Of(row_quads[1], i)};
      AddBlock<kType>(head, groups, at % kGroupBlocks, column + 32 * at, row_blocks, acc);
    }
  }
}

// The last blocks of a panel that does not end with a stage.
template <DType kType>
__device__ __forceinline__ void AddBlocks(int blocks, const unsigned char* stage,
                                          const unsigned char* column,
                                          const unsigned char* const (&rows)[2], float (&acc)[4]) {
  constexpr PackedForm kForm = kernels::FormOf(kType);
  constexpr int kGroupBlocks = kForm.group_blocks();
  const int o = LaneId() / 4;
#pragma unroll 1
  for (int at = 0; at < blocks; ++at) {
    const unsigned char* const head = stage + at / kGroupBlocks * kForm.group_bytes();
    const GroupScales groups[2] = {GroupScalesOf<kType>(head, o),
                                   GroupScalesOf<kType>(head, o + 8)};
    RowBlock row_blocks[2];
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      row_blocks[j] = {At<float>(rows[j] + kRecordScales + 4 * at),
                       At<uint32_t>(rows[j] + kRecordSums + 4 * at)};
    }
    AddBlock<kType>(head, groups, at % kGroupBlocks, column + 32 * at, row_blocks, acc);
  }
}

template <DType kType>
__global__ void __launch_bounds__(kPanelWarps* kWarpThreads)
    ExpertCodesKernel(const ProductWork w) {
  using Form = CodesForm<kType>;
  constexpr PackedForm kForm = Form::kForm;
  const int64_t panel = static_cast<int64_t>(blockIdx.x) * kPanelWarps + WarpId();
  if (panel >= w.panels) return;
  const ProductTile tile = w.tiles[blockIdx.y];
  const int o = LaneId() / 4, t = LaneId() % 4, last = static_cast<int>(tile.rows) - 1;
  // Columns of the product without a row repeat the last one; nobody reads them.
  const auto row_offset = [&](int row) {
    return Form::kStageBytes + (row < last ? row : last) * Form::kRowStride;
  };
  const int offsets[2] = {row_offset(2 * t), row_offset(2 * t + 1)};
  const int column_offset = row_offset(o) + 4 * t;
  float acc[4] = {0.0f, 0.0f, 0.0f, 0.0f};
  PanelStream<Form> stream(w, tile, panel);
  for (int stage = 0; stage < w.stages; ++stage) {
    const unsigned char* const bytes = stream.Next(stage);
    const unsigned char* const rows[2] = {bytes + offsets[0], bytes + offsets[1]};
    const int size = static_cast<int>(StageEnd<Form>(w, stage) - Form::Begin(w, stage));
    if (kForm.group_blocks() == 8 || size == Form::kStageBytes) {
      AddStage<kType>(bytes, bytes + column_offset, rows, acc);
    } else {
      AddBlocks<kType>(size / kForm.group_bytes() * kForm.group_blocks(), bytes,
                       bytes + column_offset, rows, acc);
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const int row = 2 * t + i % 2;
    const int64_t output = 16 * panel + o + i / 2 * 8;
    if (row <= last && output < w.outputs) Deliver(w, tile, row, output, acc[i]);
  }
}

template <typename List>
bool LaunchCodes(List types, DType type, const ProductWork& work, int64_t tile_count,
                 Stream stream) {
  return StartOneOf(types, type, [&]<DType kType>() {
    LaunchPanels<CodesForm<kType>>(ExpertCodesKernel<kType>, work, tile_count, stream);
  });
}

}  // namespace tandem::gpu_worker::cuda::experts
