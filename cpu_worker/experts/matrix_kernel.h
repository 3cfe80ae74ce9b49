// One matrix of an expert times some rows, whatever the format of either: the bridge from a stored
// matrix to the kernels.
//
// Rows come in one of three forms, decided by the weights and the activation form of
// proto/experts.proto:
//
// kInt8: block-quantized weights, NATIVE. int8 with one scale per 32 values (lib/kernels/quant.h).
//
// kBf16: bf16 weights, NATIVE. bf16 values, LinearBf16's order.
//
// kF32: every F32 call, and NATIVE calls on f32, f16 and fp8 weights, whose rows are rounded to
// bf16 first. Dequantized weights times f32 values, LinearF32's order.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/kernels/kernel_table.h"
#include "lib/model/model_weights.h"

namespace tandem::cpu_worker {

enum class ActivationForm { kNative, kF32 };
enum class RowForm { kInt8, kBf16, kF32 };

RowForm RowFormOf(DType weights, ActivationForm activation);

// Rows in one form, owned. Row i of the form in use; the other arrays are empty.
class RowBuffer {
 public:
  // Room for `rows` rows of `cols` values. `round_to_bf16`: kF32 rows are rounded to bf16 when
  // stored.
  void Reset(RowForm form, bool round_to_bf16, int64_t rows, int64_t cols);
  // Bytes one row of this form needs.
  static int64_t RowBytesOf(RowForm form, int64_t cols);

  // Stores values [col_begin, col_begin + n) of row `row` from f32. col_begin is a multiple of 64;
  // n too, or the range ends at cols. Different ranges may be stored from different threads.
  void Store(const kernels::KernelTable& table, int64_t row, int64_t col_begin, int64_t n,
             const float* values);

  RowForm form() const { return form_; }
  int64_t cols() const { return cols_; }
  const kernels::QuantRow* quant_rows(int64_t first) const { return quant_.data() + first; }
  const uint16_t* bf16_row(int64_t row) const { return bf16_.data() + row * cols_; }
  const float* f32_row(int64_t row) const { return f32_.data() + row * cols_; }

 private:
  RowForm form_ = RowForm::kF32;
  bool round_to_bf16_ = false;
  int64_t cols_ = 0;
  std::vector<int8_t> codes_;
  std::vector<float> scales_, sums_;
  std::vector<kernels::QuantRow> quant_;
  std::vector<uint16_t> bf16_;
  std::vector<float> f32_;
};

// y[r * outs + o] = row (first_row + r) of x times output (out_begin + o) of `matrix`, for r < rows
// and o < outs. x has the form RowFormOf(matrix type). Scratch is per thread; any split over
// outputs or rows gives the same bits.
void MultiplyRows(const kernels::KernelTable& table, const Matrix& matrix, int64_t out_begin,
                  int64_t outs, const RowBuffer& x, int64_t first_row, int64_t rows, float* y);

}  // namespace tandem::cpu_worker
