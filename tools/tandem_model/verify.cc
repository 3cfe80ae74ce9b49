#include "tools/tandem_model/verify.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/tensor/codec.h"

namespace tandem {
namespace {

constexpr int64_t kProgressBytes = 8 << 20;

// Block formats by their scales; plain ones by their values, for which `values` is room.
absl::Status VerifyRow(DType type, const std::byte* row, std::vector<float>& values) {
  const int64_t cols = static_cast<int64_t>(values.size());
  if (InfoOf(type).is_quantized) return ValidateRow(type, row, cols);
  DequantizeRow(type, row, cols, values.data());
  for (int64_t col = 0; col < cols; ++col)
    if (!std::isfinite(values[col]))
      return absl::DataLossError(absl::StrCat("column ", col, ": expected a finite ", NameOf(type),
                                              ", found ", values[col]));
  return absl::OkStatus();
}

absl::Status VerifyTensor(const TensorView& tensor, int64_t bytes_total,
                          const VerifyProgress& progress, int64_t& bytes_done) {
  const int64_t row_bytes = tensor.row_bytes();
  std::vector<float> values(tensor.cols());
  const int64_t rows_step = std::max<int64_t>(1, kProgressBytes / std::max<int64_t>(row_bytes, 1));
  for (int64_t begin = 0; begin < tensor.rows(); begin += rows_step) {
    const int64_t end = std::min(begin + rows_step, tensor.rows());
    for (int64_t row = begin; row < end; ++row) {
      const absl::Status status = VerifyRow(tensor.dtype, tensor.data + row * row_bytes, values);
      if (!status.ok())
        return absl::DataLossError(absl::StrCat(tensor.file, ": tensor ", tensor.name, ", row ",
                                                row, ": ", status.message()));
    }
    bytes_done += (end - begin) * row_bytes;
    if (progress != nullptr && !progress(bytes_done, bytes_total))
      return absl::CancelledError("stopped");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<VerifyResult> VerifyModel(const std::string& path, const LoadOptions& options,
                                         const VerifyProgress& progress) {
  TANDEM_ASSIGN_OR_RETURN(const ModelWeights model, LoadModel(path, options));
  VerifyResult result;
  result.digest = model.digest;
  for (const TensorView& tensor : model.source->tensors()) result.bytes += tensor.size_bytes;
  int64_t bytes_done = 0;
  for (const TensorView& tensor : model.source->tensors()) {
    if (tensor.dtype != DType::kI32)  // any integer is one
      TANDEM_RETURN_IF_ERROR(VerifyTensor(tensor, result.bytes, progress, bytes_done));
    ++result.tensors;
  }
  return result;
}

}  // namespace tandem
