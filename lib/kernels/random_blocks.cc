#include "lib/kernels/random_blocks.h"

#include <algorithm>
#include <cstring>

#include "lib/base/check.h"
#include "lib/tensor/blocks.h"
#include "lib/tensor/codec.h"

namespace tandem::kernels {
namespace {

// Byte offsets of the f16 numbers in a block of `type`.
std::vector<size_t> HalfOffsets(DType type) {
  switch (type) {
    case DType::kQ4_1:
      return {offsetof(BlockQ4_1, d), offsetof(BlockQ4_1, m)};
    case DType::kQ5_1:
      return {offsetof(BlockQ5_1, d), offsetof(BlockQ5_1, m)};
    case DType::kQ2_K:
      return {offsetof(BlockQ2_K, d), offsetof(BlockQ2_K, dmin)};
    case DType::kQ3_K:
      return {offsetof(BlockQ3_K, d)};
    case DType::kQ4_K:
      return {offsetof(BlockQ4_K, d), offsetof(BlockQ4_K, dmin)};
    case DType::kQ5_K:
      return {offsetof(BlockQ5_K, d), offsetof(BlockQ5_K, dmin)};
    case DType::kQ6_K:
      return {offsetof(BlockQ6_K, d)};
    case DType::kIQ1_M:
      return {};
    default:
      return {0};  // the others begin with d
  }
}

// iq1_m spreads its f16 over the top four bits of four words.
void SetSuperScaleIQ1_M(std::byte* block, uint16_t half) {
  uint16_t words[4];
  std::byte* at = block + offsetof(BlockIQ1_M, scales);
  std::memcpy(words, at, sizeof(words));
  for (int i = 0; i < 4; ++i) {
    words[i] = static_cast<uint16_t>((words[i] & 0x0fff) | (((half >> (4 * i)) & 15) << 12));
  }
  std::memcpy(at, words, sizeof(words));
}

void FillFloatRow(DType type, int64_t cols, float scale, std::mt19937_64& random, std::byte* dst) {
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(cols);
  for (float& value : values) value = normal(random);
  TANDEM_CHECK(QuantizeRow(type, values.data(), cols, dst).ok());
}

void FillBlock(DType type, float scale, int fill, std::mt19937_64& random, std::byte* block) {
  const DTypeInfo& info = InfoOf(type);
  for (int i = 0; i < info.block_bytes; ++i) {
    block[i] = static_cast<std::byte>(fill < 0 ? random() & 255 : static_cast<uint64_t>(fill));
  }
  std::normal_distribution<float> normal(0.0f, scale);
  for (size_t offset : HalfOffsets(type)) {
    const uint16_t half = F32ToF16(normal(random));
    std::memcpy(block + offset, &half, sizeof(half));
  }
  if (type == DType::kIQ1_M) SetSuperScaleIQ1_M(block, F32ToF16(normal(random)));
}

}  // namespace

std::vector<std::byte> RandomRows(DType type, int64_t rows, int64_t cols, float scale, int fill,
                                  std::mt19937_64& random) {
  const auto row_bytes = RowBytes(type, cols);
  TANDEM_CHECK(row_bytes.ok());
  std::vector<std::byte> bytes(rows * *row_bytes);
  const DTypeInfo& info = InfoOf(type);
  for (int64_t r = 0; r < rows; ++r) {
    std::byte* row = bytes.data() + r * *row_bytes;
    if (!info.is_quantized) {
      FillFloatRow(type, cols, scale, random, row);
      continue;
    }
    for (int64_t at = 0; at < *row_bytes; at += info.block_bytes) {
      FillBlock(type, scale, fill, random, row + at);
    }
  }
  return bytes;
}

}  // namespace tandem::kernels
