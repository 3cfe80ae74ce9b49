// Decoders of the formats with one or two f16 numbers per 32 values.
#include "lib/tensor/block_codec.h"
#include "lib/tensor/codec.h"

namespace tandem {
namespace {

// Value `i` of 32 nibbles in 16 bytes: low nibbles are the first half, high nibbles the second.
int Nibble(const uint8_t* qs, int i) { return i < 16 ? qs[i] & 15 : qs[i - 16] >> 4; }

// The fifth bit of value `i`, in its place.
int FifthBit(const uint8_t* qh, int i) { return ((qh[i / 8] >> (i % 8)) & 1) << 4; }

}  // namespace

void DecodeBlock(const BlockQ8_0& block, float* dst) {
  const float d = F16ToF32(block.d);
  for (int i = 0; i < kSmallBlock; ++i) dst[i] = static_cast<float>(block.qs[i]) * d;
}

void DecodeBlock(const BlockQ4_0& block, float* dst) {
  const float d = F16ToF32(block.d);
  for (int i = 0; i < kSmallBlock; ++i) dst[i] = d * static_cast<float>(Nibble(block.qs, i) - 8);
}

void DecodeBlock(const BlockQ4_1& block, float* dst) {
  const float d = F16ToF32(block.d);
  const float m = F16ToF32(block.m);
  for (int i = 0; i < kSmallBlock; ++i) dst[i] = d * static_cast<float>(Nibble(block.qs, i)) + m;
}

void DecodeBlock(const BlockQ5_0& block, float* dst) {
  const float d = F16ToF32(block.d);
  for (int i = 0; i < kSmallBlock; ++i) {
    const int q = Nibble(block.qs, i) | FifthBit(block.qh, i);
    dst[i] = d * static_cast<float>(q - 16);
  }
}

void DecodeBlock(const BlockQ5_1& block, float* dst) {
  const float d = F16ToF32(block.d);
  const float m = F16ToF32(block.m);
  for (int i = 0; i < kSmallBlock; ++i) {
    const int q = Nibble(block.qs, i) | FifthBit(block.qh, i);
    dst[i] = d * static_cast<float>(q) + m;
  }
}

void DecodeBlock(const BlockIQ4_NL& block, float* dst) {
  const float d = F16ToF32(block.d);
  for (int i = 0; i < kSmallBlock; ++i)
    dst[i] = d * static_cast<float>(kIQ4Levels[Nibble(block.qs, i)]);
}

}  // namespace tandem
