// How each number format looks inside a packed panel (packed.h): the one table that packing,
// unpacking and the kernels share. A panel is a run of groups; a group is a head of scales and then
// the code lines of a few blocks of 32 columns.
//
// Code lines. Line j (0..7) of a block holds columns 4j .. 4j+3: byte 4r + i is column 4j + i of
// row r. Codes of fewer than eight bits are kept in planes of whole lines:
//   nibbles   4 lines: the low half of line i belongs to line i, the high half to line i + 4
//   bit pairs 2 lines: bits 2t, 2t+1 of line i belong to line 4i + t
//   bits      1 line: bit j belongs to line j
// five bits are nibbles then bits, six are nibbles then pairs, three are pairs then bits.
//
// Heads, sixteen numbers (one a row) at a time, padded to whole lines:
//   kHalf      f16 scale of each of two blocks
//   kHalfMin   f16 scale, f16 minimum of one block
//   kSuper     f16 super scale of eight blocks, then for each block one byte a row and group of 32
//              or 16 columns: scale = super scale * byte (signed)
//   kSuperMin  f16 super scale, f16 super minimum; then for each block a scale byte and a minimum
//              byte (unsigned), or, with two groups, one byte each: scale in the low nibble
//   kTrit      as kSuper; bit 7 set means the values are shifted down by an eighth
// Weight = scale * (code - zero) - minimum.
#pragma once

#include <cstdint>

#include "lib/tensor/blocks.h"
#include "lib/tensor/dtype.h"

namespace tandem::kernels {

inline constexpr int kBlockCols = 32;  // columns of a block: what one activation scale covers
inline constexpr int kLineBytes = 64;
inline constexpr int kBlockLines = 8;  // lines of a block when codes are bytes

enum class Planes : uint8_t { kBytes, kNibbles, kNibblesBits, kNibblesPairs, kPairs, kPairsBits };
enum class Head : uint8_t { kHalf, kHalfMin, kSuper, kSuperMin, kTrit };

struct PackedForm {
  Planes planes = Planes::kBytes;
  Head head = Head::kHalf;
  int groups = 1;             // scales per block: 1 (of 32 columns) or 2 (of 16)
  int zero = 0;               // code that means 0
  float super_factor = 1.0f;  // scales are this times super scale times byte; a power of two
  uint8_t levels[16] = {};    // code of each stored index, when has_levels
  bool has_levels = false;

  constexpr bool has_mins() const { return head == Head::kHalfMin || head == Head::kSuperMin; }
  // Codes above 128, which a saturating 8-bit multiply-add cannot take.
  constexpr bool is_wide() const { return zero == 128; }
  constexpr int group_blocks() const {
    return head == Head::kHalf ? 2 : head == Head::kHalfMin ? 1 : 8;
  }
  // Bytes of a block's scale codes in a super head.
  constexpr int head_block_bytes() const {
    return head == Head::kSuperMin                       ? 32
           : head == Head::kSuper || head == Head::kTrit ? 16 * groups
                                                         : 0;
  }
  constexpr int head_super_bytes() const { return head == Head::kSuperMin ? 64 : 32; }
  constexpr int head_bytes() const {
    if (head == Head::kHalf || head == Head::kHalfMin) return kLineBytes;
    const int bytes = head_super_bytes() + 8 * head_block_bytes();
    return (bytes + kLineBytes - 1) / kLineBytes * kLineBytes;
  }
  constexpr int block_lines() const {
    switch (planes) {
      case Planes::kBytes:
        return 8;
      case Planes::kNibbles:
        return 4;
      case Planes::kNibblesBits:
        return 5;
      case Planes::kNibblesPairs:
        return 6;
      case Planes::kPairs:
        return 2;
      case Planes::kPairsBits:
        return 3;
    }
    return 0;
  }
  constexpr int block_bytes() const { return block_lines() * kLineBytes; }
  constexpr int group_bytes() const { return head_bytes() + group_blocks() * block_bytes(); }
};

namespace internal {

constexpr PackedForm Linear(Planes planes, Head head, int groups, int zero) {
  PackedForm form;
  form.planes = planes;
  form.head = head;
  form.groups = groups;
  form.zero = zero;
  return form;
}

// Formats whose codes index a list of values. `values` ascend; unused entries repeat the last.
constexpr PackedForm Leveled(Planes planes, Head head, int groups, int zero, float super_factor,
                             const int8_t (&values)[16]) {
  PackedForm form = Linear(planes, head, groups, zero);
  form.super_factor = super_factor;
  form.has_levels = true;
  for (int i = 0; i < 16; ++i) form.levels[i] = static_cast<uint8_t>(values[i] + zero);
  return form;
}

inline constexpr int8_t kLevelsIQ2[16] = {-43, -25, -8, 8,  25, 43, 43, 43,
                                          43,  43,  43, 43, 43, 43, 43, 43};
inline constexpr int8_t kLevelsIQ3XXS[16] = {-62, -52, -44, -36, -28, -20, -12, -4,
                                             4,   12,  20,  28,  36,  44,  52,  62};
inline constexpr int8_t kLevelsIQ3S[16] = {-15, -13, -11, -9, -7, -5, -3, -1,
                                           1,   3,   5,   7,  9,  11, 13, 15};
// Eight times a trit, plus or minus one.
inline constexpr int8_t kLevelsIQ1[16] = {-9, -7, -1, 1, 7, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9, 9};

}  // namespace internal

// The form of a block-quantized type; others have none (IsIntegerForm in weights.h).
constexpr PackedForm FormOf(DType type) {
  using internal::Leveled;
  using internal::Linear;
  switch (type) {
    case DType::kQ8_0:
      return Linear(Planes::kBytes, Head::kHalf, 1, 128);
    case DType::kQ4_0:
      return Linear(Planes::kNibbles, Head::kHalf, 1, 8);
    case DType::kQ4_1:
      return Linear(Planes::kNibbles, Head::kHalfMin, 1, 0);
    case DType::kQ5_0:
      return Linear(Planes::kNibblesBits, Head::kHalf, 1, 16);
    case DType::kQ5_1:
      return Linear(Planes::kNibblesBits, Head::kHalfMin, 1, 0);
    case DType::kIQ4_NL:
      return Leveled(Planes::kNibbles, Head::kHalf, 1, 128, 1.0f, kIQ4Levels);
    case DType::kQ2_K:
      return Linear(Planes::kPairs, Head::kSuperMin, 2, 0);
    case DType::kQ3_K:
      return Linear(Planes::kPairsBits, Head::kSuper, 2, 4);
    case DType::kQ4_K:
      return Linear(Planes::kNibbles, Head::kSuperMin, 1, 0);
    case DType::kQ5_K:
      return Linear(Planes::kNibblesBits, Head::kSuperMin, 1, 0);
    case DType::kQ6_K:
      return Linear(Planes::kNibblesPairs, Head::kSuper, 2, 32);
    case DType::kIQ4_XS:
      return Leveled(Planes::kNibbles, Head::kSuper, 1, 128, 1.0f, kIQ4Levels);
    case DType::kIQ1_S: {
      // Code 8 t + 2 for trit t (0..2) shifted up, 8 t shifted down: 9 more than 8 (t - 1) +- 1.
      PackedForm form = Linear(Planes::kPairs, Head::kTrit, 1, 9);
      form.super_factor = 0.125f;
      return form;
    }
    case DType::kIQ1_M:
      return Leveled(Planes::kPairsBits, Head::kSuper, 2, 9, 0.125f, internal::kLevelsIQ1);
    case DType::kIQ2_XXS:
      return Leveled(Planes::kPairsBits, Head::kSuper, 1, 43, 0.125f, internal::kLevelsIQ2);
    case DType::kIQ2_XS:
    case DType::kIQ2_S:
      return Leveled(Planes::kPairsBits, Head::kSuper, 2, 43, 0.125f, internal::kLevelsIQ2);
    case DType::kIQ3_XXS:
      return Leveled(Planes::kNibbles, Head::kSuper, 1, 62, 0.25f, internal::kLevelsIQ3XXS);
    case DType::kIQ3_S:
      return Leveled(Planes::kNibbles, Head::kSuper, 1, 15, 1.0f, internal::kLevelsIQ3S);
    default:
      return {};
  }
}

// Types in every loop over forms.
// clang-format off
#define TANDEM_FOR_EACH_PACKED_TYPE(X)                                            \
  X(kQ8_0) X(kQ4_0) X(kQ4_1) X(kQ5_0) X(kQ5_1) X(kIQ4_NL)                         \
  X(kQ2_K) X(kQ3_K) X(kQ4_K) X(kQ5_K) X(kQ6_K) X(kIQ4_XS)                         \
  X(kIQ1_S) X(kIQ1_M) X(kIQ2_XXS) X(kIQ2_XS) X(kIQ2_S) X(kIQ3_XXS) X(kIQ3_S)
// clang-format on

// Float panels. A chunk is 32 columns.
//   f32   32 lines, one a column: sixteen f32
//   bf16  16 lines, one a pair of columns: 2r is the even column of row r, 2r + 1 the odd
//   f16   16 lines, one a pair of columns: sixteen even ones, then sixteen odd ones
//   fp8   8 lines, one for four columns 4j..4j+3: row r has bytes 4j, 4j+2, 4j+1, 4j+3, so that
//         low and high bytes of 16-bit lanes are pairs of neighbours; every fp8_cols columns
//         (128 where the file has no scales) begin with a line of sixteen f32 scales
inline constexpr int kFp8ColsDefault = 128;

}  // namespace tandem::kernels
