// Decoders of the i-quants: 256 values as indices into codebooks of short vectors, with signs and
// scales beside them.
#include <cstring>

#include "lib/tensor/block_codec.h"
#include "lib/tensor/codec.h"
#include "lib/tensor/iquant_grids.h"

namespace tandem {
namespace {

// iq1 shifts each vector by an eighth up or down.
constexpr float kDeltaIQ1 = 0.125f;

// Writes `n` values scale * entry, negated where a bit of `signs` is set (bit 0 for the first).
void WriteSigned(float scale, const uint8_t* entry, uint32_t signs, int n, float* dst) {
  for (int k = 0; k < n; ++k) {
    const float sign = ((signs >> k) & 1) ? -1.0f : 1.0f;
    dst[k] = scale * static_cast<float>(entry[k]) * sign;
  }
}

void WriteShifted(float scale, const int8_t* entry, bool down, float* dst) {
  const float delta = down ? -kDeltaIQ1 : kDeltaIQ1;
  for (int k = 0; k < 8; ++k) dst[k] = scale * (static_cast<float>(entry[k]) + delta);
}

// The scales of the iq2 formats: (code + 1/2) quarters of d.
float ScaleIQ2(float d, uint32_t code) { return d * (0.5f + static_cast<float>(code)) * 0.25f; }

// Four-bit scale `j` (0..15) of the iq2 formats that store one per 16 values.
uint32_t HalfScale(const uint8_t* scales, int j) { return (scales[j / 2] >> (4 * (j % 2))) & 15; }

}  // namespace

void DecodeBlock(const BlockIQ1_S& block, float* dst) {
  const float d = F16ToF32(block.d);
  for (int group = 0; group < kSuperBlock / 8; ++group) {  // eight values each, four to a qh word
    const uint32_t qh = block.qh[group / 4];
    const float scale = d * static_cast<float>(2 * ((qh >> 12) & 7) + 1);
    const uint32_t index = block.qs[group] | (((qh >> (3 * (group % 4))) & 7) << 8);
    WriteShifted(scale, GridIQ1_S() + index * 8, qh & 0x8000, dst + group * 8);
  }
}

void DecodeBlock(const BlockIQ1_M& block, float* dst) {
  const float d = F16ToF32(SuperScaleIQ1_M(block.scales));
  for (int group = 0; group < kSuperBlock / 8; ++group) {
    const int sub = group / 2;  // sub-block of 16 values; four to a scale word
    const uint32_t code = (block.scales[sub / 4] >> (3 * (sub % 4))) & 7;
    const float scale = d * static_cast<float>(2 * code + 1);
    const uint32_t high =
        (block.qh[sub] >> (4 * (group % 2))) & 15;  // three index bits and the shift's sign
    const uint32_t index = block.qs[group] | ((high & 7) << 8);
    WriteShifted(scale, GridIQ1_S() + index * 8, high & 8, dst + group * 8);
  }
}

void DecodeBlock(const BlockIQ2_XXS& block, float* dst) {
  const float d = F16ToF32(block.d);
  for (int sub = 0; sub < kSuperBlock / 32; ++sub) {
    uint8_t indices[4];
    uint32_t signs_and_scale;
    std::memcpy(indices, block.qs + 4 * sub, sizeof indices);
    std::memcpy(&signs_and_scale, block.qs + 4 * sub + 2, sizeof signs_and_scale);
    const float scale = ScaleIQ2(d, signs_and_scale >> 28);
    for (int l = 0; l < 4; ++l) {
      const uint8_t signs = SignsFromSeven((signs_and_scale >> (7 * l)) & 127);
      WriteSigned(scale, GridIQ2_XXS() + indices[l] * 8, signs, 8, dst + sub * 32 + l * 8);
    }
  }
}

void DecodeBlock(const BlockIQ2_XS& block, float* dst) {
  const float d = F16ToF32(block.d);
  for (int group = 0; group < kSuperBlock / 8; ++group) {
    const uint32_t q = block.qs[group];
    const float scale = ScaleIQ2(d, HalfScale(block.scales, group / 2));
    WriteSigned(scale, GridIQ2_XS() + (q & 511) * 8, SignsFromSeven(q >> 9), 8, dst + group * 8);
  }
}

void DecodeBlock(const BlockIQ2_S& block, float* dst) {
  const float d = F16ToF32(block.d);
  for (int group = 0; group < kSuperBlock / 8; ++group) {
    const uint32_t high = (block.qh[group / 4] >> (2 * (group % 4))) & 3;
    const uint32_t index = block.qs[group] | (high << 8);
    const float scale = ScaleIQ2(d, HalfScale(block.scales, group / 2));
    WriteSigned(scale, GridIQ2_S() + index * 8, block.signs[group], 8, dst + group * 8);
  }
}

void DecodeBlock(const BlockIQ3_XXS& block, float* dst) {
  const float d = F16ToF32(block.d);
  for (int sub = 0; sub < kSuperBlock / 32; ++sub) {
    uint32_t signs_and_scale;
    std::memcpy(&signs_and_scale, block.scales_and_signs + 4 * sub, sizeof signs_and_scale);
    const float scale = d * (0.5f + static_cast<float>(signs_and_scale >> 28)) * 0.5f;
    for (int l = 0; l < 8; ++l) {  // four values each; a sign code covers two of them
      const uint8_t signs = SignsFromSeven((signs_and_scale >> (7 * (l / 2))) & 127);
      WriteSigned(scale, GridIQ3_XXS() + block.qs[8 * sub + l] * 4, signs >> (4 * (l % 2)), 4,
                  dst + sub * 32 + l * 4);
    }
  }
}

void DecodeBlock(const BlockIQ3_S& block, float* dst) {
  const float d = F16ToF32(block.d);
  for (int group = 0; group < kSuperBlock / 4; ++group) {  // four values each
    const int sub = group / 8;
    const uint32_t code = (block.scales[sub / 2] >> (4 * (sub % 2))) & 15;
    const float scale = d * static_cast<float>(1 + 2 * code);
    const uint32_t high = (block.qh[sub] >> (group % 8)) & 1;
    const uint32_t index = block.qs[group] | (high << 8);
    WriteSigned(scale, GridIQ3_S() + index * 4, block.signs[group / 2] >> (4 * (group % 2)), 4,
                dst + group * 4);
  }
}

void DecodeBlock(const BlockIQ4_XS& block, float* dst) {
  const float d = F16ToF32(block.d);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int sub = i / 32;
    const int low = (block.scales_l[sub / 2] >> (4 * (sub % 2))) & 15;
    const int high = (block.scales_h >> (2 * sub)) & 3;
    const float scale = d * static_cast<float>((low | (high << 4)) - 32);
    const uint8_t packed = block.qs[sub * 16 + i % 16];
    dst[i] = scale * static_cast<float>(kIQ4Levels[(packed >> (4 * ((i % 32) / 16))) & 15]);
  }
}

}  // namespace tandem
