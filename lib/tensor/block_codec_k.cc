// Decoders of the k-quants: 256 values in sub-blocks of 16 or 32, whose scales (and minima) are
// small integers times one f16.
#include "lib/tensor/block_codec.h"
#include "lib/tensor/codec.h"

namespace tandem {
namespace {

// Two-bit code of value `i` in q2_K and q3_K: each half of 128 values lies in 32 bytes, 32 values
// to a bit pair.
int TwoBits(const uint8_t* qs, int i) {
  return (qs[(i / 128) * 32 + i % 32] >> (2 * ((i % 128) / 32))) & 3;
}

// Nibble of value `i` in q4_K and q5_K: 64 values lie in 32 bytes, the first 32 in the low nibbles.
int Nibble(const uint8_t* qs, int i) {
  return (qs[(i / 64) * 32 + i % 32] >> (4 * ((i % 64) / 32))) & 15;
}

// Six-bit code of value `i` in q6_K: 128 values take 64 bytes of low nibbles and 32 bytes of high
// bit pairs.
int SixBits(const BlockQ6_K& block, int i) {
  const int half = i / 128;
  const int quarter = (i % 128) / 32;
  const int low = (block.ql[half * 64 + i % 64] >> (4 * (quarter / 2))) & 15;
  const int high = (block.qh[half * 32 + i % 32] >> (2 * quarter)) & 3;
  return low | (high << 4);
}

}  // namespace

void DecodeBlock(const BlockQ2_K& block, float* dst) {
  const float d = F16ToF32(block.d);
  const float dmin = F16ToF32(block.dmin);
  for (int i = 0; i < kSuperBlock; ++i) {
    const uint8_t packed = block.scales[i / 16];
    const float scale = d * static_cast<float>(packed & 15);
    const float min = dmin * static_cast<float>(packed >> 4);
    dst[i] = scale * static_cast<float>(TwoBits(block.qs, i)) - min;
  }
}

void DecodeBlock(const BlockQ3_K& block, float* dst) {
  const float d = F16ToF32(block.d);
  for (int i = 0; i < kSuperBlock; ++i) {
    const float scale = d * static_cast<float>(UnpackScaleQ3_K(block.scales, i / 16));
    const bool high = (block.hmask[i % 32] >> (i / 32)) & 1;
    const int q = TwoBits(block.qs, i) - (high ? 0 : 4);
    dst[i] = scale * static_cast<float>(q);
  }
}

void DecodeBlock(const BlockQ4_K& block, float* dst) {
  const float d = F16ToF32(block.d);
  const float dmin = F16ToF32(block.dmin);
  for (int i = 0; i < kSuperBlock; ++i) {
    const ScaleMin packed = UnpackScaleMin(block.scales, i / 32);
    const float scale = d * static_cast<float>(packed.scale);
    const float min = dmin * static_cast<float>(packed.min);
    dst[i] = scale * static_cast<float>(Nibble(block.qs, i)) - min;
  }
}

void DecodeBlock(const BlockQ5_K& block, float* dst) {
  const float d = F16ToF32(block.d);
  const float dmin = F16ToF32(block.dmin);
  for (int i = 0; i < kSuperBlock; ++i) {
    const ScaleMin packed = UnpackScaleMin(block.scales, i / 32);
    const float scale = d * static_cast<float>(packed.scale);
    const float min = dmin * static_cast<float>(packed.min);
    const int high = (block.qh[i % 32] >> (i / 32)) & 1;
    dst[i] = scale * static_cast<float>(Nibble(block.qs, i) | (high << 4)) - min;
  }
}

void DecodeBlock(const BlockQ6_K& block, float* dst) {
  const float d = F16ToF32(block.d);
  for (int i = 0; i < kSuperBlock; ++i) {
    const int group = i / 16;
    const float scale = d * static_cast<float>(block.scales[group]);
    dst[i] = scale * static_cast<float>(SixBits(block, i) - 32);
  }
}

}  // namespace tandem
