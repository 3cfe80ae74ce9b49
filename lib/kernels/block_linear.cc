#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "lib/base/check.h"
#include "lib/kernels/fp8_linear.h"
#include "lib/kernels/kernel_table.h"
#include "lib/kernels/marlin_linear.h"
#include "lib/tensor/codec.h"

namespace tandem::kernels {
namespace {

// Kept per thread.
float* Scratch(int64_t cols) {
  thread_local std::vector<float> scratch;
  const auto needed = static_cast<size_t>(BlockLinearScratchFloats(cols));
  if (scratch.size() < needed) scratch.resize(needed);
  return scratch.data();
}

float LargestMagnitude(const float* w, int64_t n, float largest) {
  for (int64_t i = 0; i < n; ++i) largest = std::max(largest, std::abs(w[i]));
  return largest;
}

// One block: columns [begin, end) of all rows.
float QuantizeFp8Block(const float* w, int64_t rows, int64_t cols, int64_t begin, int64_t end,
                       uint8_t* codes) {
  float largest = 0;
  for (int64_t r = 0; r < rows; ++r) {
    largest = LargestMagnitude(w + r * cols + begin, end - begin, largest);
  }
  TANDEM_CHECK(std::isfinite(largest));
  float scale = largest / kFp8Max;
  if (scale < std::numeric_limits<float>::min()) scale = 0.0f;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t k = begin; k < end; ++k) {
      codes[r * Fp8RowBytes(cols) + k] = scale == 0.0f ? 0 : F32ToF8E4M3(w[r * cols + k] / scale);
    }
  }
  return scale;
}

}  // namespace

void LinearFp8(const Fp8LinearArgs& args) { ActiveTable().linear_fp8(args, Scratch(args.cols)); }

void LinearMarlin(const MarlinLinearArgs& args) {
  ActiveTable().linear_marlin(args, Scratch(args.cols));
}

void QuantizeFp8Inputs(const float* x, int64_t cols, uint16_t* numbers, float* scales) {
  ActiveTable().quantize_fp8(x, cols, numbers, scales);
}

void QuantizeFp8Weights(const float* w, int64_t rows, int64_t cols, uint8_t* codes, float* scales) {
  TANDEM_CHECK_LE(rows, kFp8Block);
  std::memset(codes, 0, rows * Fp8RowBytes(cols));
  for (int64_t b = 0; b < Fp8Blocks(cols); ++b) {
    scales[b] =
        QuantizeFp8Block(w, rows, cols, b * kFp8Block, std::min((b + 1) * kFp8Block, cols), codes);
  }
}

void QuantizeMarlinRow(const MarlinForm& form, const float* w, int64_t cols, uint8_t* codes,
                       uint16_t* scales) {
  const int bias = 1 << (form.bits - 1);
  const float limit = static_cast<float>(bias) - 0.5f;  // of codes: 7.5 or 127.5
  for (int64_t g = 0; g < form.Groups(cols); ++g) {
    const int64_t begin = g * form.group, end = std::min(begin + form.group, cols);
    const float largest = LargestMagnitude(w + begin, end - begin, 0.0f);
    TANDEM_CHECK(std::isfinite(largest));
    scales[g] = F32ToBF16(largest / limit);
    const float scale = BF16ToF32(scales[g]);
    for (int64_t k = begin; k < end; ++k) {
      const float steps = scale == 0.0f ? 0.0f : std::nearbyint(w[k] / scale);
      codes[k] = static_cast<uint8_t>(
          std::clamp(steps, static_cast<float>(-bias), static_cast<float>(bias - 1)) + bias);
    }
  }
}

void StoreMarlinRow(const MarlinForm& form, const uint8_t* codes, int64_t cols, uint8_t* row) {
  const int64_t bytes = form.RowBytes(cols);
  if (form.bits == 8) {
    std::memset(row, 0x80, bytes);
    std::memcpy(row, codes, cols);
    return;
  }
  std::memset(row, 0x88, bytes);
  for (int64_t k = 0; k < cols; ++k) {
    uint8_t& byte = row[k / 32 * 16 + k % 16];
    byte = static_cast<uint8_t>(k % 32 < 16 ? (byte & 0xf0) | codes[k]
                                            : (byte & 0x0f) | (codes[k] << 4));
  }
}

void LoadMarlinRow(const MarlinForm& form, const uint8_t* row, int64_t cols, uint8_t* codes) {
  for (int64_t k = 0; k < cols; ++k) {
    const uint8_t byte = form.bits == 8 ? row[k] : row[k / 32 * 16 + k % 16];
    codes[k] = form.bits == 8 ? byte : (k % 32 < 16 ? byte & 15 : byte >> 4);
  }
}

uint16_t MarlinWeight(const MarlinForm& form, uint8_t code, uint16_t scale) {
  const int bias = 1 << (form.bits - 1);
  return F32ToBF16(static_cast<float>(code - bias) * BF16ToF32(scale));
}

}  // namespace tandem::kernels
