#include "lib/experts/self_test.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_format.h"
#include "lib/base/status_macros.h"
#include "lib/kernels/row_forms.h"
#include "lib/kernels/weights.h"

namespace tandem {
namespace {

using kernels::ActivationForm;
using kernels::GroupRows;
using kernels::RowForm;
using kernels::RowFormOf;

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
  // bf16 keeps eight bits: half a unit in the last is at most 2^-8 of the value.
  return activation == ActivationForm::kNative ? std::abs(x[k]) * std::exp2(-8) : 0.0;
}

// Rows of the known input as a matrix wants them, one or enough of them for row tiles.
class KnownRows {
 public:
  KnownRows(const kernels::KernelTable& table, DType type, ActivationForm activation,
            const std::vector<float>& x, int64_t rows) {
    input_.Reset(table, type, activation, rows, static_cast<int64_t>(x.size()));
    for (int64_t r = 0; r < rows; ++r) input_.Store(table, r, x.data());
  }

  const GroupRows& group() const { return input_.rows(); }
  // What value `k` of the input became.
  double Stored(size_t k) const {
    if (group().quant.empty()) return group().floats[0][k];
    const kernels::QuantRow& row = *group().quant[0];
    return static_cast<double>(row.scales[k / kernels::kActivationBlock]) * row.codes[k];
  }

 private:
  kernels::MatrixInput input_;
};

// What an output of the matrix must be, and how far from it a kernel may be.
struct Expected {
  double value = 0, tolerance = 0;
};

Expected ExpectedOutput(const Matrix& source, int64_t row, const KnownRows& x) {
  std::vector<float> w(source.cols());
  DequantizeMatrixRow(source, row, w.data());
  const std::vector<double> summands = SummandMagnitudes(source, row, w);
  Expected expected;
  double magnitude = 0;
  for (size_t k = 0; k < w.size(); ++k) {
    expected.value += static_cast<double>(w[k]) * x.Stored(k);
    magnitude += summands[k] * std::abs(x.Stored(k));
  }
  // Each addition on the longest chain of panel.h - at most two scales and two minima for 32
  // columns, or a quarter of the columns - and 18 around them round by 2^-24 of the magnitude.
  expected.tolerance = (source.cols() / 4.0 + 18) * std::exp2(-24) * magnitude + 1e-37;
  return expected;
}

// The input as stored must be the input but for its rounding.
absl::Status TestInput(const kernels::KernelTable& table, DType type, ActivationForm activation,
                       const std::vector<float>& x, const KnownRows& known) {
  for (size_t k = 0; k < x.size(); ++k) {
    const double error = InputError(RowFormOf(type, activation), activation, x, k);
    if (std::abs(known.Stored(k) - x[k]) <= error) continue;
    return absl::InternalError(absl::StrFormat(
        "self-test failed: activation %d for %s weights with %s kernels: expected %.9g, found "
        "%.9g, tolerance %.3g",
        k, NameOf(type), table.isa, x[k], known.Stored(k), error));
  }
  return absl::OkStatus();
}

absl::Status TestMatrix(const kernels::KernelTable& table, const Matrix& source,
                        const kernels::PackedMatrix& packed) {
  const std::vector<float> x = KnownInput(source.cols());
  std::vector<float> y(kernels::kTileRows * kernels::kPanelRows);
  for (ActivationForm activation : {ActivationForm::kNative, ActivationForm::kF32}) {
    for (const int64_t rows : {int64_t{1}, int64_t{kernels::kTileRows}}) {
      const KnownRows known(table, source.view.dtype, activation, x, rows);
      TANDEM_RETURN_IF_ERROR(TestInput(table, source.view.dtype, activation, x, known));
      for (const int64_t row : {int64_t{0}, source.rows() / 2, source.rows() - 1}) {
        MultiplyPanels(table, packed, row / kernels::kPanelRows, 1, known.group(), activation,
                       y.data(), kernels::kPanelRows);
        const float found = y[(rows - 1) * kernels::kPanelRows + row % kernels::kPanelRows];
        const Expected expected = ExpectedOutput(source, row, known);
        if (std::abs(found - expected.value) <= expected.tolerance) continue;
        return absl::InternalError(absl::StrFormat(
            "self-test failed: row %d of %s (%s) with %s kernels, %s activations and %d rows: "
            "expected %.9g, found %.9g, tolerance %.3g",
            row, source.view.name, NameOf(source.view.dtype), table.isa,
            activation == ActivationForm::kNative ? "native" : "f32", rows, expected.value, found,
            expected.tolerance));
      }
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status SelfTestExpert(const kernels::KernelTable& table, const FfnWeights& source,
                            const PackedExpert& packed) {
  TANDEM_RETURN_IF_ERROR(TestMatrix(table, source.gate, packed.gate));
  TANDEM_RETURN_IF_ERROR(TestMatrix(table, source.up, packed.up));
  return TestMatrix(table, source.down, packed.down);
}

}  // namespace tandem
