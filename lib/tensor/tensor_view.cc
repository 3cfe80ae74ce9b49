#include "lib/tensor/tensor_view.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"

namespace tandem {

int64_t TensorView::rows() const {
  int64_t rows = 1;
  for (size_t i = 0; i + 1 < shape.size(); ++i) rows *= shape[i];
  return rows;
}

TensorView TensorView::Slice(int64_t i) const {
  TANDEM_CHECK_GE(shape.size(), size_t{2});  // slicing along K would cut through blocks
  TANDEM_CHECK_GE(i, 0);
  TANDEM_CHECK_LT(i, shape.front());
  TensorView slice;
  slice.name = absl::StrCat(name, "[", i, "]");
  slice.dtype = dtype;
  slice.shape.assign(shape.begin() + 1, shape.end());
  slice.size_bytes = size_bytes / shape.front();
  slice.data = data + i * slice.size_bytes;
  slice.file = file;
  return slice;
}

std::string TensorView::Describe() const {
  return absl::StrCat(NameOf(dtype), " [", absl::StrJoin(shape, ", "), "]");
}

absl::StatusOr<int64_t> TensorBytes(DType type, const std::vector<int64_t>& shape) {
  TANDEM_ASSIGN_OR_RETURN(int64_t bytes, RowBytes(type, shape.empty() ? 1 : shape.back()));
  for (size_t i = 0; i + 1 < shape.size(); ++i) {
    if (shape[i] <= 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("expected positive dimensions, found [", absl::StrJoin(shape, ", "), "]"));
    }
    if (__builtin_mul_overflow(bytes, shape[i], &bytes)) {
      return absl::OutOfRangeError(
          absl::StrCat("expected a tensor of fewer than 2^63 bytes, found ", NameOf(type), " [",
                       absl::StrJoin(shape, ", "), "]"));
    }
  }
  return bytes;
}

}  // namespace tandem
