// PackPanel on any rows that ValidateRow accepts: unpacking gives the codec's values, bit for bit.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "lib/base/check.h"
#include "lib/kernels/packed.h"
#include "lib/kernels/row_forms.h"
#include "lib/kernels/weights.h"
#include "lib/tensor/codec.h"

namespace {

using tandem::DType;

// The first byte chooses the type, the second how many rows and blocks of columns; the rest are the
// rows, repeated when there are too few.
void PackAndUnpack(DType type, int64_t rows, int64_t cols, const uint8_t* data, size_t size) {
  const int64_t row_bytes = *tandem::RowBytes(type, cols);
  std::vector<std::byte> source(rows * row_bytes);
  for (size_t i = 0; i < source.size(); ++i) source[i] = static_cast<std::byte>(data[i % size]);
  for (int64_t r = 0; r < rows; ++r) {
    if (!tandem::ValidateRow(type, source.data() + r * row_bytes, cols).ok()) return;
  }
  const tandem::kernels::PackedLayout layout = tandem::kernels::LayoutOf(type, rows, cols);
  tandem::kernels::AlignedBuffer panel;
  std::byte* packed = panel.Reserve(layout.panel_bytes);
  tandem::kernels::PackPanel(layout, source.data(), rows, nullptr, packed);
  std::vector<float> got(tandem::kernels::kPanelRows * cols), want(cols);
  tandem::kernels::UnpackPanel(layout, packed, got.data());
  for (int64_t r = 0; r < rows; ++r) {
    tandem::DequantizeRow(type, source.data() + r * row_bytes, cols, want.data());
    for (int64_t k = 0; k < cols; ++k) {
      const float found = got[r * cols + k];
      TANDEM_CHECK(std::bit_cast<uint32_t>(found) == std::bit_cast<uint32_t>(want[k]) ||
                   (std::isnan(found) && std::isnan(want[k])));
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < 3) return 0;
  const DType type = static_cast<DType>(data[0] % static_cast<int>(DType::kCount));
  const int64_t block = std::max(32, tandem::InfoOf(type).block_elems);
  const int64_t rows = 1 + data[1] % 16, cols = block * (1 + data[1] / 16 % 3);
  if (!tandem::kernels::CheckWeightType(type, cols).ok()) return 0;
  PackAndUnpack(type, rows, cols, data + 2, size - 2);
  return 0;
}
