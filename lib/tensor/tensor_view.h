// TensorView: what a weight file says about one tensor, with a pointer to its bytes. It owns
// nothing; whoever mapped the file keeps it alive.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/tensor/dtype.h"

namespace tandem {

struct TensorView {
  std::string name;  // as in the file
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;  // outermost first, so shape.back() is the contiguous (K) dimension;
                               // GGUF's order reversed
  const std::byte* data = nullptr;
  int64_t size_bytes = 0;  // exactly what shape and dtype need
  std::string file;        // path, for error messages

  int64_t cols() const { return shape.empty() ? 1 : shape.back(); }
  // Product of all dimensions but the last.
  int64_t rows() const;
  int64_t row_bytes() const { return rows() == 0 ? 0 : size_bytes / rows(); }
  // The view of index `i` along the outermost dimension (an expert of a stacked tensor). CHECKs the
  // range.
  TensorView Slice(int64_t i) const;
  // "f16 [64, 2048, 1408]": for messages.
  std::string Describe() const;
};

// Bytes that `shape` of `type` needs; INVALID_ARGUMENT or OUT_OF_RANGE when a dimension is not
// positive, the last one is no multiple of the block, or a product overflows.
absl::StatusOr<int64_t> TensorBytes(DType type, const std::vector<int64_t>& shape);

}  // namespace tandem
