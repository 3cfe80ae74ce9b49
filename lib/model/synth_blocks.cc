#include "lib/model/synth_blocks.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <numbers>

#include "lib/base/check.h"
#include "lib/tensor/blocks.h"
#include "lib/tensor/codec.h"

namespace tandem {
namespace {

constexpr int kVariants = 16;      // scales a block may get
constexpr float kFp8Max = 448.0f;  // largest e4m3 value
constexpr float kSqrt3 =
    std::numbers::sqrt3_v<float>;  // half-width of a uniform distribution of deviation 1

// Where a block keeps its f16 scale and, for formats with a minimum or offset, that one and the
// multiple of the scale that centres the codes on zero.
struct ScaleSpot {
  DType type;
  size_t scale_at;
  int offset_at;  // -1: none
  float centre;   // offset = centre * scale
};

constexpr ScaleSpot kSpots[] = {
    {DType::kQ8_0, offsetof(BlockQ8_0, d), -1, 0},
    {DType::kQ4_0, offsetof(BlockQ4_0, d), -1, 0},
    {DType::kQ4_1, offsetof(BlockQ4_1, d), offsetof(BlockQ4_1, m), -7.5f},  // codes 0..15
    {DType::kQ5_0, offsetof(BlockQ5_0, d), -1, 0},
    {DType::kQ5_1, offsetof(BlockQ5_1, d), offsetof(BlockQ5_1, m), -15.5f},  // codes 0..31
    {DType::kQ2_K, offsetof(BlockQ2_K, d), offsetof(BlockQ2_K, dmin),
     1.5f},  // codes 0..3, the minimum is subtracted
    {DType::kQ3_K, offsetof(BlockQ3_K, d), -1, 0},
    {DType::kQ4_K, offsetof(BlockQ4_K, d), offsetof(BlockQ4_K, dmin), 7.5f},
    {DType::kQ5_K, offsetof(BlockQ5_K, d), offsetof(BlockQ5_K, dmin), 15.5f},
    {DType::kQ6_K, offsetof(BlockQ6_K, d), -1, 0},
    {DType::kIQ1_S, offsetof(BlockIQ1_S, d), -1, 0},
    {DType::kIQ2_XXS, offsetof(BlockIQ2_XXS, d), -1, 0},
    {DType::kIQ2_XS, offsetof(BlockIQ2_XS, d), -1, 0},
    {DType::kIQ2_S, offsetof(BlockIQ2_S, d), -1, 0},
    {DType::kIQ3_XXS, offsetof(BlockIQ3_XXS, d), -1, 0},
    {DType::kIQ3_S, offsetof(BlockIQ3_S, d), -1, 0},
    {DType::kIQ4_NL, offsetof(BlockIQ4_NL, d), -1, 0},
    {DType::kIQ4_XS, offsetof(BlockIQ4_XS, d), -1, 0},
};

const ScaleSpot* SpotOf(DType type) {
  for (const ScaleSpot& spot : kSpots)
    if (spot.type == type) return &spot;
  return nullptr;
}

void PutU16(std::byte* at, uint16_t value) { std::memcpy(at, &value, sizeof(value)); }

// iq1_m spreads its f16 scale over the top four bits of four words.
void PutSuperScale(std::byte* block, uint16_t scale) {
  std::byte* words = block + offsetof(BlockIQ1_M, scales);
  for (int i = 0; i < 4; ++i) {
    uint16_t word;
    std::memcpy(&word, words + 2 * i, sizeof(word));
    PutU16(words + 2 * i, static_cast<uint16_t>((word & 0x0fff) | ((scale >> (4 * i)) & 15) << 12));
  }
}

// Makes every sub-block's minimum code equal to its scale code, so that `centre` centres all of
// them.
void PairMinimaWithScales(DType type, std::byte* block) {
  if (type == DType::kQ2_K) {
    std::byte* scales = block + offsetof(BlockQ2_K, scales);
    for (int i = 0; i < 16; ++i) scales[i] = (scales[i] & std::byte{15}) | (scales[i] << 4);
  } else if (type == DType::kQ4_K || type == DType::kQ5_K) {
    static_assert(offsetof(BlockQ4_K, scales) == offsetof(BlockQ5_K, scales));
    std::byte* scales = block + offsetof(BlockQ4_K, scales);
    for (int i = 0; i < 4; ++i) {
      scales[i + 4] = scales[i];
      scales[i + 8] = (scales[i + 8] & std::byte{15}) | (scales[i + 8] << 4);
    }
  }
}

// Deviation of the format's values under scale 1, measured: no formula to get wrong for 19 formats.
double UnitDeviation(DType type) {
  constexpr int64_t kBlocks = 512;
  const int64_t cols = kBlocks * InfoOf(type).block_elems;
  std::vector<std::byte> row(kBlocks * InfoOf(type).block_bytes);
  RandomRows(type, cols, /*std_dev=*/0.0).Fill(1, row.data());
  std::vector<float> values(cols);
  DequantizeRow(type, row.data(), cols, values.data());
  double squares = 0;
  for (const float value : values) squares += static_cast<double>(value) * value;
  return std::sqrt(squares / static_cast<double>(cols));
}

// A value in [-1, 1) from 16 bits.
float SignedUnit(uint16_t bits) {
  return static_cast<float>(static_cast<int16_t>(bits)) / 32768.0f;
}

uint16_t CodeOf(DType type, float value) {
  if (type == DType::kF16) return F32ToF16(value);
  if (type == DType::kBF16) return F32ToBF16(value);
  return F32ToF8E4M3(value);
}

}  // namespace

uint64_t MixSeed(uint64_t seed, uint64_t part) {
  uint64_t z = seed + 0x9e3779b97f4a7c15u * (part + 1);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

RandomBits::RandomBits(uint64_t seed) {
  for (uint64_t i = 0; i < 4; ++i) state_[i] = MixSeed(seed, i);
}

uint64_t RandomBits::Next() {
  const uint64_t result = std::rotl(state_[0] + state_[3], 23) + state_[0];
  const uint64_t t = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= t;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

float Fp8ScaleInv(double std_dev) { return static_cast<float>(std_dev) * kSqrt3 / kFp8Max; }

RandomRows::RandomRows(DType type, int64_t cols, double std_dev)
    : type_(type), cols_(cols), amplitude_(static_cast<float>(std_dev) * kSqrt3) {
  const absl::StatusOr<int64_t> bytes = RowBytes(type, cols);
  TANDEM_CHECK(bytes.ok());
  row_bytes_ = *bytes;
  if (type == DType::kF32) return;
  if (!InfoOf(type).is_quantized) {
    code_of_bits_.resize(1 << 16);
    const float amplitude = type == DType::kF8E4M3 ? kFp8Max : amplitude_;
    for (size_t i = 0; i < code_of_bits_.size(); ++i)
      code_of_bits_[i] = CodeOf(type, SignedUnit(static_cast<uint16_t>(i)) * amplitude);
    return;
  }
  // std_dev 0 asks for scale 1: the measurement below.
  const double scale = std_dev == 0.0 ? 1.0 : std_dev / UnitDeviation(type);
  const ScaleSpot* spot = SpotOf(type);
  for (int i = 0; i < kVariants; ++i) {
    // Scales vary by +-30 %, as those of trained weights do.
    const double varied = std_dev == 0.0 ? scale : scale * (0.7 + 0.6 * i / (kVariants - 1));
    scale_.push_back(F32ToF16(static_cast<float>(varied)));
    const float centre = spot != nullptr ? spot->centre : 0.0f;
    offset_.push_back(F32ToF16(F16ToF32(scale_.back()) * centre));
  }
}

void RandomRows::Fill(uint64_t row_seed, std::byte* dst) const {
  RandomBits bits(row_seed);
  if (InfoOf(type_).is_quantized) {
    FillBlocks(bits, dst);
  } else {
    FillCodes(bits, dst);
  }
}

void RandomRows::FillCodes(RandomBits& bits, std::byte* dst) const {
  const int64_t width = row_bytes_ / cols_;
  for (int64_t i = 0; i < cols_; i += 4) {
    uint64_t random = bits.Next();
    for (int64_t j = i; j < std::min(i + 4, cols_); ++j, random >>= 16) {
      const uint16_t low = static_cast<uint16_t>(random);
      if (type_ == DType::kF32) {
        const float value = SignedUnit(low) * amplitude_;
        std::memcpy(dst + j * width, &value, sizeof(value));
      } else {
        std::memcpy(dst + j * width, &code_of_bits_[low],
                    width);  // little-endian: the low byte first
      }
    }
  }
}

void RandomRows::FillBlocks(RandomBits& bits, std::byte* dst) const {
  int64_t at = 0;
  for (; at + 8 <= row_bytes_; at += 8) {
    const uint64_t random = bits.Next();
    std::memcpy(dst + at, &random, 8);
  }
  const uint64_t rest = bits.Next();
  std::memcpy(dst + at, &rest, row_bytes_ - at);
  const ScaleSpot* spot = SpotOf(type_);
  const int64_t block_bytes = InfoOf(type_).block_bytes;
  for (std::byte* block = dst; block < dst + row_bytes_; block += block_bytes) {
    PairMinimaWithScales(type_, block);
    if (spot == nullptr) {
      TANDEM_CHECK(type_ == DType::kIQ1_M);
      PutSuperScale(block, scale_[std::to_integer<int>(block[0]) % kVariants]);
      continue;
    }
    // The bytes about to be overwritten are random: they choose the variant.
    const int variant = std::to_integer<int>(block[spot->scale_at]) % kVariants;
    PutU16(block + spot->scale_at, scale_[variant]);
    if (spot->offset_at >= 0) PutU16(block + spot->offset_at, offset_[variant]);
  }
}

}  // namespace tandem
