#include "lib/kernels/packed.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "lib/base/check.h"
#include "lib/kernels/kernel_table.h"
#include "lib/kernels/packed_form.h"
#include "lib/kernels/panel.h"
#include "lib/kernels/weights.h"
#include "lib/tensor/blocks.h"
#include "lib/tensor/codec.h"

namespace tandem::kernels {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// Bytes of a panel of a float type with `cols` columns.
int64_t FloatPanelBytes(const PackedLayout& layout) {
  const int64_t chunks = CeilDiv(layout.cols, kBlockCols);
  switch (layout.type) {
    case DType::kF32:
      return chunks * 32 * kLineBytes;
    case DType::kF16:
    case DType::kBF16:
      return chunks * 16 * kLineBytes;
    case DType::kF8E4M3:
      return (chunks * 8 + CeilDiv(layout.cols, Fp8ScaleCols(layout))) * kLineBytes;
    default:
      TANDEM_CHECK(false && "not a float type");
  }
  return 0;
}

// --- Scales: what a head stores, row by row.

// Scale numbers of one row over one group of blocks.
struct HeadRow {
  uint16_t scale[2] = {};     // kHalf: of each block; others: [0] is the (super) scale
  uint16_t min = 0;           // f16 (super) minimum
  uint8_t codes[8][2] = {};   // [block][group]
  uint8_t min_codes[8] = {};  // [block], kSuperMin with one group
};

template <typename Block>
HeadRow HalfHead(const std::byte* row, int64_t first_block, int64_t blocks) {
  HeadRow head;
  for (int64_t b = 0; b < blocks; ++b) head.scale[b] = LoadBlock<Block>(row, first_block + b).d;
  return head;
}

template <typename Block>
HeadRow HalfMinHead(const std::byte* row, int64_t block) {
  const Block loaded = LoadBlock<Block>(row, block);
  HeadRow head;
  head.scale[0] = loaded.d;
  // Weights are scale * code - minimum, the files' scale * code + m: the sign bit turns.
  head.min = loaded.m ^ 0x8000;
  return head;
}

template <typename Block>
HeadRow ScaleMinHead(const std::byte* row, int64_t super_block) {
  const Block block = LoadBlock<Block>(row, super_block);
  HeadRow head;
  head.scale[0] = block.d;
  head.min = block.dmin;
  for (int b = 0; b < 8; ++b) {
    const ScaleMin pair = UnpackScaleMin(block.scales, b);
    head.codes[b][0] = pair.scale;
    head.min_codes[b] = pair.min;
  }
  return head;
}

// The scale byte of 16 columns `group` (0..15) of a super block.
template <typename Block>
uint8_t ScaleByte(const Block& block, int group);
template <>
uint8_t ScaleByte(const BlockQ2_K& block, int group) {
  return block.scales[group];
}
template <>
uint8_t ScaleByte(const BlockQ3_K& block, int group) {
  return static_cast<uint8_t>(UnpackScaleQ3_K(block.scales, group));
}
template <>
uint8_t ScaleByte(const BlockQ6_K& block, int group) {
  return static_cast<uint8_t>(block.scales[group]);
}
template <>
uint8_t ScaleByte(const BlockIQ1_S& block, int group) {
  const uint32_t high = block.qh[group / 2];
  return static_cast<uint8_t>((2 * ((high >> 12) & 7) + 1) | ((high & 0x8000) != 0 ? 0x80 : 0));
}
template <>
uint8_t ScaleByte(const BlockIQ1_M& block, int group) {
  return static_cast<uint8_t>(2 * ((block.scales[group / 4] >> (3 * (group % 4))) & 7) + 1);
}
template <>
uint8_t ScaleByte(const BlockIQ2_XXS& block, int group) {
  uint32_t signs_and_scale;
  std::memcpy(&signs_and_scale, block.qs + 4 * (group / 2) + 2, sizeof(signs_and_scale));
  return static_cast<uint8_t>(2 * (signs_and_scale >> 28) + 1);
}
template <>
uint8_t ScaleByte(const BlockIQ2_XS& block, int group) {
  return static_cast<uint8_t>(2 * ((block.scales[group / 2] >> (4 * (group % 2))) & 15) + 1);
}
template <>
uint8_t ScaleByte(const BlockIQ2_S& block, int group) {
  return static_cast<uint8_t>(2 * ((block.scales[group / 2] >> (4 * (group % 2))) & 15) + 1);
}
template <>
uint8_t ScaleByte(const BlockIQ3_XXS& block, int group) {
  uint32_t signs_and_scale;
  std::memcpy(&signs_and_scale, block.scales_and_signs + 4 * (group / 2), sizeof(signs_and_scale));
  return static_cast<uint8_t>(2 * (signs_and_scale >> 28) + 1);
}
template <>
uint8_t ScaleByte(const BlockIQ3_S& block, int group) {
  const int sub = group / 2;
  return static_cast<uint8_t>(2 * ((block.scales[sub / 2] >> (4 * (sub % 2))) & 15) + 1);
}
template <>
uint8_t ScaleByte(const BlockIQ4_XS& block, int group) {
  const int sub = group / 2;
  const int low = (block.scales_l[sub / 2] >> (4 * (sub % 2))) & 15;
  const int high = (block.scales_h >> (2 * sub)) & 3;
  return static_cast<uint8_t>((low | (high << 4)) - 32);
}

template <typename Block>
uint16_t SuperScale(const Block& block) {
  return block.d;
}
template <>
uint16_t SuperScale(const BlockIQ1_M& block) {
  return SuperScaleIQ1_M(block.scales);
}

template <typename Block>
HeadRow SuperHead(const std::byte* row, int64_t super_block) {
  const Block block = LoadBlock<Block>(row, super_block);
  HeadRow head;
  head.scale[0] = SuperScale(block);
  for (int g = 0; g < 16; ++g) head.codes[g / 2][g % 2] = ScaleByte(block, g);
  return head;
}

// The head numbers of group `group` of a row; blocks past the row's end have scale zero.
HeadRow HeadOf(DType type, const std::byte* row, int64_t group, int64_t row_blocks) {
  const int64_t left = std::min<int64_t>(2, row_blocks - 2 * group);
  switch (type) {
    case DType::kQ8_0:
      return HalfHead<BlockQ8_0>(row, 2 * group, left);
    case DType::kQ4_0:
      return HalfHead<BlockQ4_0>(row, 2 * group, left);
    case DType::kQ5_0:
      return HalfHead<BlockQ5_0>(row, 2 * group, left);
    case DType::kIQ4_NL:
      return HalfHead<BlockIQ4_NL>(row, 2 * group, left);
    case DType::kQ4_1:
      return HalfMinHead<BlockQ4_1>(row, group);
    case DType::kQ5_1:
      return HalfMinHead<BlockQ5_1>(row, group);
    case DType::kQ4_K:
      return ScaleMinHead<BlockQ4_K>(row, group);
    case DType::kQ5_K:
      return ScaleMinHead<BlockQ5_K>(row, group);
    case DType::kQ2_K: {
      HeadRow head = SuperHead<BlockQ2_K>(row, group);
      head.min = LoadBlock<BlockQ2_K>(row, group).dmin;
      return head;
    }
    case DType::kQ3_K:
      return SuperHead<BlockQ3_K>(row, group);
    case DType::kQ6_K:
      return SuperHead<BlockQ6_K>(row, group);
    case DType::kIQ4_XS:
      return SuperHead<BlockIQ4_XS>(row, group);
    case DType::kIQ1_S:
      return SuperHead<BlockIQ1_S>(row, group);
    case DType::kIQ1_M:
      return SuperHead<BlockIQ1_M>(row, group);
    case DType::kIQ2_XXS:
      return SuperHead<BlockIQ2_XXS>(row, group);
    case DType::kIQ2_XS:
      return SuperHead<BlockIQ2_XS>(row, group);
    case DType::kIQ2_S:
      return SuperHead<BlockIQ2_S>(row, group);
    case DType::kIQ3_XXS:
      return SuperHead<BlockIQ3_XXS>(row, group);
    case DType::kIQ3_S:
      return SuperHead<BlockIQ3_S>(row, group);
    default:
      TANDEM_CHECK(false && "not a block-quantized type");
  }
  return {};
}

void PutHalf(std::byte* at, int row, uint16_t half) {
  std::memcpy(at + 2 * row, &half, sizeof(half));
}

void WriteHead(const PackedForm& form, const HeadRow& head, int row, std::byte* out) {
  PutHalf(out, row, head.scale[0]);
  if (form.head == Head::kHalf) PutHalf(out + 32, row, head.scale[1]);
  if (form.has_mins()) PutHalf(out + 32, row, head.min);
  if (form.head == Head::kHalf || form.head == Head::kHalfMin) return;
  for (int b = 0; b < 8; ++b) {
    std::byte* codes = out + form.head_super_bytes() + b * form.head_block_bytes();
    codes[row] = static_cast<std::byte>(head.codes[b][0]);
    if (form.groups == 2) codes[16 + row] = static_cast<std::byte>(head.codes[b][1]);
    if (form.head == Head::kSuperMin && form.groups == 1) {
      codes[16 + row] = static_cast<std::byte>(head.min_codes[b]);
    }
  }
}

// --- Codes.

using CodeLines = std::array<std::array<uint8_t, kLineBytes>, kBlockLines>;

// What is stored for each int8 code of the unpacked form.
struct CodeMap {
  explicit CodeMap(DType type, const PackedForm& form) {
    for (int code = -128; code < 128; ++code) {
      stored[static_cast<uint8_t>(code)] = static_cast<uint8_t>(code + form.zero);
    }
    // iq1_s: 8 (t - 1) +- 1 for trit t.
    if (type == DType::kIQ1_S) {
      for (int t = 0; t < 3; ++t) {
        stored[static_cast<uint8_t>(8 * (t - 1) - 1)] = static_cast<uint8_t>(t);
        stored[static_cast<uint8_t>(8 * (t - 1) + 1)] = static_cast<uint8_t>(t);
      }
    }
    for (int i = 15; form.has_levels && i >= 0; --i) {
      stored[static_cast<uint8_t>(form.levels[i] - form.zero)] = static_cast<uint8_t>(i);
    }
  }
  uint8_t stored[256];
};

void WritePlanes(Planes planes, const CodeLines& lines, std::byte* out) {
  const auto put = [&out](auto value_of) {
    for (int at = 0; at < kLineBytes; ++at) out[at] = static_cast<std::byte>(value_of(at));
    out += kLineBytes;
  };
  const auto pairs = [&](int shift) {
    for (int i = 0; i < 2; ++i) {
      put([&](int at) {
        int value = 0;
        for (int t = 0; t < 4; ++t) value |= ((lines[4 * i + t][at] >> shift) & 3) << (2 * t);
        return value;
      });
    }
  };
  const auto bits = [&](int shift) {
    put([&](int at) {
      int value = 0;
      for (int j = 0; j < kBlockLines; ++j) value |= ((lines[j][at] >> shift) & 1) << j;
      return value;
    });
  };
  if (planes == Planes::kBytes) {
    for (const auto& line : lines) put([&](int at) { return line[at]; });
  } else if (planes == Planes::kPairs || planes == Planes::kPairsBits) {
    pairs(0);
    if (planes == Planes::kPairsBits) bits(2);
  } else {
    for (int i = 0; i < 4; ++i) {
      put([&](int at) { return (lines[i][at] & 15) | ((lines[i + 4][at] & 15) << 4); });
    }
    if (planes == Planes::kNibblesBits) bits(4);
    if (planes == Planes::kNibblesPairs) pairs(4);
  }
}

// Scratch of one thread, kept: rows of unpacked weights.
struct PackScratch {
  std::vector<int8_t> codes;  // [16][PaddedCodes]
  std::vector<float> scales, mins;
};

void PackCodes(const PackedLayout& layout, const std::byte* src, int64_t rows, std::byte* panel) {
  thread_local PackScratch scratch;
  const int64_t padded = PaddedCodes(layout.cols);
  scratch.codes.assign(kPanelRows * padded, 0);
  scratch.scales.resize(padded / kWeightGroup);
  scratch.mins.resize(padded / kWeightGroup);
  const int64_t row_bytes = *RowBytes(layout.type, layout.cols);
  const PackedForm form = FormOf(layout.type);
  const CodeMap map(layout.type, form);
  const int64_t row_blocks = layout.cols / kBlockCols;
  const int64_t groups = CeilDiv(row_blocks, form.group_blocks());
  // Unpacking wants even addresses, which a reader's buffer may not give.
  std::vector<std::byte> aligned(reinterpret_cast<uintptr_t>(src) % 2 != 0 ? row_bytes : 0);
  for (int64_t r = 0; r < rows; ++r) {
    const std::byte* row = src + r * row_bytes;
    if (reinterpret_cast<uintptr_t>(row) % 2 != 0) {
      aligned.assign(row, row + row_bytes);
      row = aligned.data();
    }
    UnpackWeights(ActiveTable(), layout.type, row, layout.cols,
                  {scratch.codes.data() + r * padded, scratch.scales.data(), scratch.mins.data()});
    for (int64_t g = 0; g < groups; ++g) {
      WriteHead(form, HeadOf(layout.type, row, g, row_blocks), static_cast<int>(r),
                panel + g * form.group_bytes());
    }
  }
  for (int64_t b = 0; b < groups * form.group_blocks(); ++b) {
    CodeLines lines;
    for (int j = 0; j < kBlockLines; ++j) {
      for (int r = 0; r < kPanelRows; ++r) {
        // A block past the row's end holds zeros, whose scale is zero.
        const int64_t k = b * kBlockCols + 4 * j;
        for (int i = 0; i < 4; ++i) {
          const int8_t code = k < padded ? scratch.codes[r * padded + k + i] : int8_t{0};
          lines[j][4 * r + i] = map.stored[static_cast<uint8_t>(code)];
        }
      }
    }
    std::byte* group = panel + b / form.group_blocks() * form.group_bytes();
    WritePlanes(form.planes, lines,
                group + form.head_bytes() + b % form.group_blocks() * form.block_bytes());
  }
}

// --- Float types.

// Column of byte or value `i` of a four-column fp8 line's row.
constexpr int kFp8Order[4] = {0, 2, 1, 3};

void PackFp8(const PackedLayout& layout, const std::byte* src, int64_t rows, const float* scales,
             std::byte* panel) {
  const int64_t scale_cols = Fp8ScaleCols(layout);
  const int64_t scale_blocks = CeilDiv(layout.cols, scale_cols);
  std::byte* out = panel;
  for (int64_t k = 0; k < layout.cols; k += 4) {
    if (k % scale_cols == 0) {
      for (int64_t r = 0; r < rows; ++r) {
        const float scale = scales == nullptr ? 1.0f : scales[r * scale_blocks + k / scale_cols];
        std::memcpy(out + 4 * r, &scale, sizeof(scale));
      }
      out += kLineBytes;
    }
    for (int64_t r = 0; r < rows; ++r) {
      for (int i = 0; i < 4; ++i) {
        const int64_t col = k + kFp8Order[i];
        if (col < layout.cols) out[4 * r + i] = src[r * layout.cols + col];
      }
    }
    out += kLineBytes;
  }
}

// Where column `k` of row `r` lies in an f16, bf16 or f32 panel.
int64_t FloatOffset(DType type, int64_t k, int64_t r) {
  if (type == DType::kF32) return k * kLineBytes + 4 * r;
  const int64_t line = k / 2 * kLineBytes;
  return line + (type == DType::kBF16 ? 4 * r + 2 * (k % 2) : 32 * (k % 2) + 2 * r);
}

void PackFloats(const PackedLayout& layout, const std::byte* src, int64_t rows, std::byte* panel) {
  const int64_t value_bytes = InfoOf(layout.type).block_bytes;
  for (int64_t r = 0; r < rows; ++r) {
    const std::byte* row = src + r * layout.cols * value_bytes;
    for (int64_t k = 0; k < layout.cols; ++k) {
      std::memcpy(panel + FloatOffset(layout.type, k, r), row + k * value_bytes, value_bytes);
    }
  }
}

}  // namespace

PackedLayout LayoutOf(DType type, int64_t rows, int64_t cols, int64_t fp8_cols) {
  PackedLayout layout{.type = type, .rows = rows, .cols = cols, .fp8_cols = fp8_cols};
  TANDEM_CHECK_EQ(fp8_cols % kBlockCols, 0);
  if (!IsIntegerForm(type)) {
    layout.panel_bytes = FloatPanelBytes(layout);
    return layout;
  }
  const PackedForm form = FormOf(type);
  layout.panel_bytes = CeilDiv(CeilDiv(cols, kBlockCols), form.group_blocks()) * form.group_bytes();
  return layout;
}

void PackPanel(const PackedLayout& layout, const std::byte* src, int64_t rows,
               const float* fp8_scales, std::byte* panel) {
  TANDEM_CHECK(rows >= 1 && rows <= kPanelRows);
  std::memset(panel, 0, static_cast<size_t>(layout.panel_bytes));
  if (layout.type == DType::kF8E4M3) return PackFp8(layout, src, rows, fp8_scales, panel);
  if (!IsIntegerForm(layout.type)) return PackFloats(layout, src, rows, panel);
  PackCodes(layout, src, rows, panel);
}

void UnpackPanel(const PackedLayout& layout, const std::byte* panel, float* out) {
  const int64_t cols_padded = CeilDiv(layout.cols, kBlockCols) * kBlockCols;
  // The kernels unpack whole groups of blocks, so there may be columns past the padded end.
  std::vector<float> lines((cols_padded + kSuperBlock) * kPanelRows);
  ActiveTable().unpack_panel(layout, panel, lines.data());
  for (int64_t k = 0; k < layout.cols; ++k) {
    for (int r = 0; r < kPanelRows; ++r) out[r * layout.cols + k] = lines[k * kPanelRows + r];
  }
}

}  // namespace tandem::kernels
