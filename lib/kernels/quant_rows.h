// QuantRows: memory for rows of quantized activations (quant.h).
#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "lib/kernels/quant.h"

namespace tandem::kernels {

class QuantRows {
 public:
  // Room for `rows` rows of `cols` values, a multiple of 32; what pads them to whole chunks is
  // zero. Keeps its memory when it shrinks.
  void Reset(int64_t rows, int64_t cols) {
    const int64_t padded = PaddedCodes(cols);
    codes_.resize(rows * padded);
    scales_.resize(rows * padded / 32);
    code_sums_.resize(rows * padded / 16);
    sums_.resize(rows * padded / 16);
    block_sums_.resize(rows * padded / 32);
    rows_.resize(rows);
    for (int64_t r = 0; r < rows; ++r) {
      rows_[r] = {codes_.data() + r * padded, scales_.data() + r * padded / 32,
                  code_sums_.data() + r * padded / 16, sums_.data() + r * padded / 16,
                  block_sums_.data() + r * padded / 32};
      if (padded > cols) ClearBlock(At(r, cols));
    }
  }

  int64_t rows() const { return static_cast<int64_t>(rows_.size()); }
  const QuantRow& operator[](int64_t row) const { return rows_[row]; }

  // The part of row `row` that begins at column `col`, a multiple of 32.
  QuantRow At(int64_t row, int64_t col) const {
    const QuantRow& r = rows_[row];
    return {r.codes + col, r.scales + col / 32, r.code_sums + col / 16, r.sums + col / 16,
            r.block_sums + col / 32};
  }

  static constexpr int64_t RowBytes(int64_t cols) {
    // A byte a code; f32 scale and sum per 32; f32 and i32 sums per 16.
    return PaddedCodes(cols) * 7 / 4 + static_cast<int64_t>(sizeof(QuantRow));
  }

 private:
  static void ClearBlock(const QuantRow& block) {
    std::fill_n(block.codes, kActivationBlock, int8_t{0});
    std::fill_n(block.code_sums, 2, 0);
    std::fill_n(block.sums, 2, 0.0f);
    *block.scales = *block.block_sums = 0.0f;
  }

  std::vector<int8_t> codes_;
  std::vector<float> scales_, sums_, block_sums_;
  std::vector<int32_t> code_sums_;
  std::vector<QuantRow> rows_;
};

}  // namespace tandem::kernels
