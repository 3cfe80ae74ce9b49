#include "lib/kernels/row_tiles.h"

#include <algorithm>
#include <cstring>

#include "lib/kernels/panel.h"

namespace tandem::kernels {
namespace {

void PutFloat(std::byte* at, int64_t row, float value) {
  std::memcpy(at + row * static_cast<int64_t>(sizeof(value)), &value, sizeof(value));
}

}  // namespace

void PutQuantRow(const QuantRow& x, int64_t first_block, int64_t blocks, int64_t row,
                 std::byte* tile) {
  std::byte* block = tile + first_block * kQuantTileBlockBytes;
  for (int64_t b = first_block; b < first_block + blocks; ++b, block += kQuantTileBlockBytes) {
    std::memcpy(block + row * kBlockCols, x.codes + b * kBlockCols, kBlockCols);
    PutFloat(block + kTileScalesOffset, row, x.scales[b]);
    std::byte* sums = block + kTileSumsOffset;
    PutFloat(sums, row, x.block_sums[b]);
    PutFloat(sums + 64, row, x.sums[2 * b]);
    PutFloat(sums + 128, row, x.sums[2 * b + 1]);
    const int32_t first = x.code_sums[2 * b], second = x.code_sums[2 * b + 1];
    int32_t* code_sums = reinterpret_cast<int32_t*>(block + kTileCodeSumsOffset) + row;
    code_sums[0] = first + second;
    code_sums[16] = first;
    code_sums[32] = second;
  }
}

void PutBf16Row(const float* x, int64_t first, int64_t cols, int64_t row, std::byte* tile) {
  for (int64_t k = first; k < first + cols; k += kBlockCols) {
    uint16_t values[kBlockCols] = {};
    const int64_t n = std::min<int64_t>(kBlockCols, first + cols - k);
    for (int64_t i = 0; i < n; ++i) {
      uint32_t bits;
      std::memcpy(&bits, x + k + i, sizeof(bits));
      values[i] = static_cast<uint16_t>(bits >> 16);
    }
    std::memcpy(tile + k / kBlockCols * kBf16TileChunkBytes + row * kLineBytes, values,
                sizeof(values));
  }
}

}  // namespace tandem::kernels
