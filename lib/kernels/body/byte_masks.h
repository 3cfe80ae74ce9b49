// Eight bits spread over eight bytes: the signs and fifth bits of several formats come as bit
// masks, their values as bytes.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace tandem::kernels {

// Byte k is 0xFF where bit k of `bits` is set.
constexpr uint64_t SpreadBits(uint32_t bits) {
  uint64_t mask = 0;
  for (int k = 0; k < 8; ++k) {
    if ((bits >> k) & 1) mask |= uint64_t{0xFF} << (8 * k);
  }
  return mask;
}

constexpr std::array<uint64_t, 256> MakeByteMasks() {
  std::array<uint64_t, 256> masks{};
  for (uint32_t bits = 0; bits < 256; ++bits) masks[bits] = SpreadBits(bits);
  return masks;
}

// Seven stored signs of eight; the eighth makes the number of set bits even.
constexpr std::array<uint64_t, 128> MakeEvenMasks() {
  std::array<uint64_t, 128> masks{};
  for (uint32_t bits = 0; bits < 128; ++bits) {
    masks[bits] = SpreadBits(bits | ((std::popcount(bits) & 1u) << 7));
  }
  return masks;
}

inline constexpr std::array<uint64_t, 256> kByteMaskArray = MakeByteMasks();
inline constexpr std::array<uint64_t, 128> kEvenMaskArray = MakeEvenMasks();
// Plain pointers, so that code compiled for wider instruction sets instantiates nothing of std.
inline constexpr const uint64_t* kByteMasks = kByteMaskArray.data();
inline constexpr const uint64_t* kEvenMasks = kEvenMaskArray.data();

}  // namespace tandem::kernels
