#include "cpu_worker/experts/matrix_kernel.h"

#include <algorithm>
#include <cstring>

#include "lib/base/check.h"
#include "lib/kernels/weights.h"

namespace tandem::cpu_worker {
namespace {

using kernels::KernelTable;
using kernels::PaddedCodes;

// Rows of weights unpacked at a time: the register tile of the widest kernel has four outputs.
constexpr int64_t kUnpackedRows = 4;
// Rows of weights dequantized at a time for the float kernels: 16 rows of 7168 values are 448 KiB,
// within a level-2 cache.
constexpr int64_t kDequantizedRows = 16;

// Scratch that a thread keeps between calls.
template <typename T>
T* Grown(std::vector<T>* buffer, int64_t values) {
  if (static_cast<int64_t>(buffer->size()) < values) buffer->resize(values);
  return buffer->data();
}

struct UnpackScratch {
  std::vector<int8_t> codes;
  std::vector<float> scales, mins;
  kernels::UnpackedRow rows[kUnpackedRows];

  void Reserve(int64_t cols) {
    const int64_t padded = PaddedCodes(cols);
    int8_t* c = Grown(&codes, kUnpackedRows * padded);
    float* s = Grown(&scales, kUnpackedRows * padded / kernels::kWeightGroup);
    float* m = Grown(&mins, kUnpackedRows * padded / kernels::kWeightGroup);
    for (int64_t r = 0; r < kUnpackedRows; ++r) {
      rows[r] = {c + r * padded, s + r * padded / kernels::kWeightGroup,
                 m + r * padded / kernels::kWeightGroup};
    }
  }
};

UnpackScratch& ThreadUnpackScratch(int64_t cols) {
  thread_local UnpackScratch scratch;
  scratch.Reserve(cols);
  return scratch;
}

const std::byte* RowAt(const Matrix& matrix, int64_t row) {
  return matrix.view.data + row * matrix.view.row_bytes();
}

void MultiplyInt8(const KernelTable& table, const Matrix& matrix, int64_t out_begin, int64_t outs,
                  const RowBuffer& x, int64_t first_row, int64_t rows, float* y) {
  const DType type = matrix.view.dtype;
  UnpackScratch& scratch = ThreadUnpackScratch(matrix.cols());
  for (int64_t o = 0; o < outs; o += kUnpackedRows) {
    const int64_t n = std::min(kUnpackedRows, outs - o);
    for (int64_t i = 0; i < n; ++i) {
      kernels::UnpackWeights(table, type, RowAt(matrix, out_begin + o + i), matrix.cols(),
                             scratch.rows[i]);
    }
    table.quant_dot({.cols_padded = PaddedCodes(matrix.cols()),
                     .w = scratch.rows,
                     .outs = n,
                     .has_mins = kernels::HasMins(type),
                     .x = x.quant_rows(first_row),
                     .rows = rows,
                     .y = y + o,
                     .y_stride = outs});
  }
}

void MultiplyBf16(const KernelTable& table, const Matrix& matrix, int64_t out_begin, int64_t outs,
                  const RowBuffer& x, int64_t first_row, int64_t rows, float* y) {
  thread_local std::vector<float> scratch;
  const int64_t cols = matrix.cols();
  table.linear_bf16({.x = x.bf16_row(first_row),
                     .x_stride = cols,
                     .w = RowAt(matrix, out_begin),
                     .y = y,
                     .y_stride = outs,
                     .rows = rows,
                     .cols = cols,
                     .n_begin = 0,
                     .n_end = outs},
                    Grown(&scratch, kernels::kLinearTileRowsMax * PaddedCodes(cols)));
}

// Row `row` of the matrix as f32, with the codec's values bit for bit.
void DequantizeRowFast(const KernelTable& table, const Matrix& matrix, int64_t row, float* out) {
  const DType type = matrix.view.dtype;
  const int64_t cols = matrix.cols();
  if (kernels::IsIntegerForm(type)) {
    UnpackScratch& scratch = ThreadUnpackScratch(cols);
    kernels::UnpackWeights(table, type, RowAt(matrix, row), cols, scratch.rows[0]);
    table.dequantize_unpacked(scratch.rows[0], kernels::HasMins(type), cols, out);
  } else if (type == DType::kBF16) {
    table.widen_bf16(reinterpret_cast<const uint16_t*>(RowAt(matrix, row)), cols, out);
  } else if (type == DType::kF16) {
    table.widen_f16(reinterpret_cast<const uint16_t*>(RowAt(matrix, row)), cols, out);
  } else {
    DequantizeMatrixRow(matrix, row, out);
  }
}

void MultiplyF32(const KernelTable& table, const Matrix& matrix, int64_t out_begin, int64_t outs,
                 const RowBuffer& x, int64_t first_row, int64_t rows, float* y) {
  thread_local std::vector<float> weights;
  const int64_t cols = matrix.cols();
  float* w = Grown(&weights, kDequantizedRows * cols);
  for (int64_t o = 0; o < outs; o += kDequantizedRows) {
    const int64_t n = std::min(kDequantizedRows, outs - o);
    for (int64_t i = 0; i < n; ++i) {
      DequantizeRowFast(table, matrix, out_begin + o + i, w + i * cols);
    }
    table.linear_f32({.x = x.f32_row(first_row),
                      .x_stride = cols,
                      .w = w,
                      .y = y + o,
                      .y_stride = outs,
                      .rows = rows,
                      .cols = cols,
                      .n_begin = 0,
                      .n_end = n},
                     nullptr);
  }
}

}  // namespace

RowForm RowFormOf(DType weights, ActivationForm activation) {
  if (activation == ActivationForm::kF32) return RowForm::kF32;
  if (weights == DType::kBF16) return RowForm::kBf16;
  return kernels::IsIntegerForm(weights) ? RowForm::kInt8 : RowForm::kF32;
}

void RowBuffer::Reset(RowForm form, bool round_to_bf16, int64_t rows, int64_t cols) {
  form_ = form;
  round_to_bf16_ = round_to_bf16;
  cols_ = cols;
  if (form == RowForm::kBf16) bf16_.resize(rows * cols);
  if (form == RowForm::kF32) f32_.resize(rows * cols);
  if (form != RowForm::kInt8) return;
  const int64_t padded = PaddedCodes(cols);
  codes_.resize(rows * padded);
  scales_.resize(rows * padded / 32);
  sums_.resize(rows * padded / 16);
  quant_.resize(rows);
  for (int64_t r = 0; r < rows; ++r) {
    quant_[r] = {codes_.data() + r * padded, scales_.data() + r * padded / 32,
                 sums_.data() + r * padded / 16};
  }
}

int64_t RowBuffer::RowBytesOf(RowForm form, int64_t cols) {
  if (form == RowForm::kBf16) return cols * 2;
  if (form == RowForm::kF32) return cols * 4;
  // One byte a code, four per 32 for scales, four per 16 for sums.
  return PaddedCodes(cols) + PaddedCodes(cols) / 8 + PaddedCodes(cols) / 4 +
         static_cast<int64_t>(sizeof(kernels::QuantRow));
}

void RowBuffer::Store(const KernelTable& table, int64_t row, int64_t col_begin, int64_t n,
                      const float* values) {
  if (form_ == RowForm::kBf16) {
    table.narrow_bf16(values, n, bf16_.data() + row * cols_ + col_begin);
  } else if (form_ == RowForm::kInt8) {
    const kernels::QuantRow& whole = quant_[row];
    table.quantize_row(
        values, n,
        {whole.codes + col_begin, whole.scales + col_begin / 32, whole.sums + col_begin / 16});
  } else if (round_to_bf16_) {
    thread_local std::vector<uint16_t> rounded;
    uint16_t* bits = Grown(&rounded, n);
    table.narrow_bf16(values, n, bits);
    table.widen_bf16(bits, n, f32_.data() + row * cols_ + col_begin);
  } else {
    std::memcpy(f32_.data() + row * cols_ + col_begin, values, n * sizeof(float));
  }
}

void MultiplyRows(const KernelTable& table, const Matrix& matrix, int64_t out_begin, int64_t outs,
                  const RowBuffer& x, int64_t first_row, int64_t rows, float* y) {
  TANDEM_CHECK_EQ(x.cols(), matrix.cols());
  switch (x.form()) {
    case RowForm::kInt8:
      return MultiplyInt8(table, matrix, out_begin, outs, x, first_row, rows, y);
    case RowForm::kBf16:
      return MultiplyBf16(table, matrix, out_begin, outs, x, first_row, rows, y);
    case RowForm::kF32:
      return MultiplyF32(table, matrix, out_begin, outs, x, first_row, rows, y);
  }
}

}  // namespace tandem::cpu_worker
