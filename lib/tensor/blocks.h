// The blocks of the quantized formats, byte for byte as files hold them (little-endian, no
// padding). Everything that takes a block apart, codec and kernels alike, names its fields through
// these structs. What the fields mean: docs/formats.md.
//
// Rows are arrays of blocks without padding, so a block may lie at any even address: read one with
// LoadBlock.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>

namespace tandem {

static_assert(std::endian::native == std::endian::little,
              "blocks are read as little-endian structs");

inline constexpr int kSmallBlock = 32;   // values per block of q4_0 .. q8_0 and iq4_nl
inline constexpr int kSuperBlock = 256;  // values per block of the k- and the other i-quants

// Fields called d, dmin or m are f16 bits.
struct BlockQ8_0 {
  uint16_t d;
  int8_t qs[32];
};

struct BlockQ4_0 {
  uint16_t d;
  uint8_t qs[16];
};

struct BlockQ4_1 {
  uint16_t d;
  uint16_t m;
  uint8_t qs[16];
};

struct BlockQ5_0 {
  uint16_t d;
  uint8_t qh[4];
  uint8_t qs[16];
};

struct BlockQ5_1 {
  uint16_t d;
  uint16_t m;
  uint8_t qh[4];
  uint8_t qs[16];
};

struct BlockQ2_K {
  uint8_t scales[16];
  uint8_t qs[64];
  uint16_t d;
  uint16_t dmin;
};

struct BlockQ3_K {
  uint8_t hmask[32];
  uint8_t qs[64];
  uint8_t scales[12];
  uint16_t d;
};

struct BlockQ4_K {
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t qs[128];
};

struct BlockQ5_K {
  uint16_t d;
  uint16_t dmin;
  uint8_t scales[12];
  uint8_t qh[32];
  uint8_t qs[128];
};

struct BlockQ6_K {
  uint8_t ql[128];
  uint8_t qh[64];
  int8_t scales[16];
  uint16_t d;
};

struct BlockIQ1_S {
  uint16_t d;
  uint8_t qs[32];
  uint16_t qh[8];
};

struct BlockIQ1_M {
  uint8_t qs[32];
  uint8_t qh[16];
  uint16_t scales[4];  // the top four bits of each are a quarter of the f16 super scale
};

struct BlockIQ2_XXS {
  uint16_t d;
  uint16_t qs[32];
};

struct BlockIQ2_XS {
  uint16_t d;
  uint16_t qs[32];
  uint8_t scales[8];
};

struct BlockIQ2_S {
  uint16_t d;
  uint8_t qs[32];
  uint8_t signs[32];
  uint8_t qh[8];
  uint8_t scales[8];
};

struct BlockIQ3_XXS {
  uint16_t d;
  uint8_t qs[64];
  uint8_t scales_and_signs[32];  // eight little-endian u32
};

struct BlockIQ3_S {
  uint16_t d;
  uint8_t qs[64];
  uint8_t qh[8];
  uint8_t signs[32];
  uint8_t scales[4];
};

struct BlockIQ4_NL {
  uint16_t d;
  uint8_t qs[16];
};

struct BlockIQ4_XS {
  uint16_t d;
  uint16_t scales_h;
  uint8_t scales_l[4];
  uint8_t qs[128];
};

static_assert(sizeof(BlockQ8_0) == 34);
static_assert(sizeof(BlockQ4_0) == 18);
static_assert(sizeof(BlockQ4_1) == 20);
static_assert(sizeof(BlockQ5_0) == 22);
static_assert(sizeof(BlockQ5_1) == 24);
static_assert(sizeof(BlockQ2_K) == 84);
static_assert(sizeof(BlockQ3_K) == 110);
static_assert(sizeof(BlockQ4_K) == 144);
static_assert(sizeof(BlockQ5_K) == 176);
static_assert(sizeof(BlockQ6_K) == 210);
static_assert(sizeof(BlockIQ1_S) == 50);
static_assert(sizeof(BlockIQ1_M) == 56);
static_assert(sizeof(BlockIQ2_XXS) == 66);
static_assert(sizeof(BlockIQ2_XS) == 74);
static_assert(sizeof(BlockIQ2_S) == 82);
static_assert(sizeof(BlockIQ3_XXS) == 98);
static_assert(sizeof(BlockIQ3_S) == 110);
static_assert(sizeof(BlockIQ4_NL) == 18);
static_assert(sizeof(BlockIQ4_XS) == 136);

// Copies block `index` of the row at `src`, whatever its alignment.
template <typename Block>
Block LoadBlock(const std::byte* src, int64_t index) {
  Block block;
  std::memcpy(&block, src + index * static_cast<int64_t>(sizeof(Block)), sizeof(Block));
  return block;
}

// Scale and minimum of sub-block `j` (0..7) of q4_K and q5_K: twelve bytes hold eight pairs of
// 6-bit numbers.
struct ScaleMin {
  uint8_t scale;
  uint8_t min;
};
inline ScaleMin UnpackScaleMin(const uint8_t* scales, int j) {
  if (j < 4)
    return {static_cast<uint8_t>(scales[j] & 63), static_cast<uint8_t>(scales[j + 4] & 63)};
  const uint8_t low = scales[j + 4];
  return {static_cast<uint8_t>((low & 15) | ((scales[j - 4] >> 6) << 4)),
          static_cast<uint8_t>((low >> 4) | ((scales[j] >> 6) << 4))};
}

// Scale `j` (0..15) of q3_K, -32..31: low four bits in bytes 0..7, high two in bytes 8..11.
inline int UnpackScaleQ3_K(const uint8_t* scales, int j) {
  const int low = (scales[j % 8] >> (j < 8 ? 0 : 4)) & 15;
  const int high = (scales[8 + j % 4] >> (2 * (j / 4))) & 3;
  return (low | (high << 4)) - 32;
}

// The f16 bits of an iq1_m block's super scale.
inline uint16_t SuperScaleIQ1_M(const uint16_t* scales) {
  return static_cast<uint16_t>((scales[0] >> 12) | ((scales[1] >> 12) << 4) |
                               ((scales[2] >> 12) << 8) | ((scales[3] >> 12) << 12));
}

// The 16 levels of iq4_nl and iq4_xs.
inline constexpr int8_t kIQ4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                          1,    13,   25,  38,  53,  69,  89,  113};

}  // namespace tandem
