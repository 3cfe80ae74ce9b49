#include "cpu_worker/experts/self_test.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_format.h"
#include "cpu_worker/experts/matrix_kernel.h"
#include "lib/base/status_macros.h"
#include "lib/kernels/weights.h"

namespace tandem::cpu_worker {
namespace {

// A fixed input with values of both signs, zeros and an outlier in every 61st place (a period that
// shares no factor with blocks of 32): a multiplicative hash gives the same numbers everywhere.
std::vector<float> KnownInput(int64_t n) {
  std::vector<float> x(n);
  for (int64_t k = 0; k < n; ++k) {
    const uint32_t hash = static_cast<uint32_t>(k + 1) * 2654435761u;  // 2^32 / golden ratio
    x[k] = static_cast<float>(static_cast<int32_t>(hash >> 16) - 32768) / 32768.0f;
    if (k % 61 == 0) x[k] *= 60.0f;
    if (k % 17 == 0) x[k] = 0.0f;
  }
  return x;
}

// What the sums of one weight row see: |scale * code| + |min| where both are summed apart, |w|
// otherwise.
std::vector<double> SummandMagnitudes(const Matrix& matrix, int64_t row,
                                      const std::vector<float>& w) {
  std::vector<double> magnitude(w.size());
  for (size_t k = 0; k < w.size(); ++k) magnitude[k] = std::abs(w[k]);
  if (!kernels::HasMins(matrix.view.dtype)) return magnitude;
  const int64_t padded = kernels::PaddedCodes(matrix.cols());
  std::vector<int8_t> codes(padded);
  std::vector<float> scales(padded / 16), mins(padded / 16);
  kernels::UnpackWeights(*kernels::SupportedTables().front(), matrix.view.dtype,
                         matrix.view.data + row * matrix.view.row_bytes(), matrix.cols(),
                         {codes.data(), scales.data(), mins.data()});
  for (size_t k = 0; k < w.size(); ++k) {
    magnitude[k] = std::abs(scales[k / 16] * codes[k]) + std::abs(mins[k / 16]);
  }
  return magnitude;
}

// Largest error that rounding x[k] to the kernel's form makes.
double InputError(RowForm form, ActivationForm activation, const std::vector<float>& x, size_t k) {
  if (form == RowForm::kInt8) {
    const size_t begin = k / 32 * 32;
    float largest = 0;
    for (size_t i = begin; i < begin + 32; ++i) largest = std::max(largest, std::abs(x[i]));
    return largest / 127.0 * 0.5001;  // half a step; scale and inverse round in the seventh digit
  }
  // bf16 keeps eight bits: half a unit in the last is 2^-9 of the value.
  return activation == ActivationForm::kNative ? std::abs(x[k]) * std::exp2(-9) * 1.0001 : 0.0;
}

absl::Status TestRow(const kernels::KernelTable& table, const Matrix& matrix, int64_t row,
                     ActivationForm activation, const std::vector<float>& x,
                     const RowBuffer& stored) {
  float got = 0;
  MultiplyRows(table, matrix, row, 1, stored, 0, 1, &got);
  std::vector<float> w(matrix.cols());
  DequantizeMatrixRow(matrix, row, w.data());
  const std::vector<double> summands = SummandMagnitudes(matrix, row, w);
  double want = 0, input_error = 0, magnitude = 0;
  for (size_t k = 0; k < w.size(); ++k) {
    const double error = InputError(stored.form(), activation, x, k);
    want += static_cast<double>(w[k]) * x[k];
    input_error += std::abs(w[k]) * error;
    magnitude += summands[k] * (std::abs(x[k]) + error);
  }
  // Each of at most cols / 16 additions in a lane, 4 in the tree and 4 around them rounds by 2^-24
  // of the magnitude.
  const double tolerance =
      input_error + (matrix.cols() / 16.0 + 8) * std::exp2(-24) * magnitude + 1e-37;
  if (std::abs(got - want) <= tolerance) return absl::OkStatus();
  return absl::InternalError(absl::StrFormat(
      "self-test failed: row %d of %s (%s) with %s kernels and %s activations: expected %.9g, "
      "found %.9g, tolerance %.3g",
      row, matrix.view.name, NameOf(matrix.view.dtype), table.isa,
      activation == ActivationForm::kNative ? "native" : "f32", want, got, tolerance));
}

absl::Status TestMatrix(const kernels::KernelTable& table, const Matrix& matrix) {
  const std::vector<float> x = KnownInput(matrix.cols());
  for (ActivationForm activation : {ActivationForm::kNative, ActivationForm::kF32}) {
    RowBuffer stored;
    stored.Reset(RowFormOf(matrix.view.dtype, activation), activation == ActivationForm::kNative, 1,
                 matrix.cols());
    stored.Store(table, 0, 0, matrix.cols(), x.data());
    for (int64_t row : {int64_t{0}, matrix.rows() / 2, matrix.rows() - 1}) {
      TANDEM_RETURN_IF_ERROR(TestRow(table, matrix, row, activation, x, stored));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status SelfTestExpert(const kernels::KernelTable& table, const FfnWeights& expert) {
  TANDEM_RETURN_IF_ERROR(TestMatrix(table, expert.gate));
  TANDEM_RETURN_IF_ERROR(TestMatrix(table, expert.up));
  return TestMatrix(table, expert.down);
}

}  // namespace tandem::cpu_worker
