#include "gpu_worker/backend/cuda/simt/tensor_map.h"

#include "absl/strings/str_cat.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int64_t kAlignBytes = 16;
constexpr int64_t kSwizzleBytes = 128;
constexpr uint32_t kBoxMax = 256;
// Sizes are 32-bit, strides 40-bit numbers of the hardware's.
constexpr int64_t kSizeMax = int64_t{1} << 32;
constexpr int64_t kStrideMaxBytes = int64_t{1} << 40;

std::string StrideProblem(const TensorMapSpec& spec) {
  int64_t inner_bytes = spec.sizes[0] * BytesOf(spec.element);
  for (int i = 0; i + 1 < spec.rank; ++i) {
    const int64_t stride = spec.strides_bytes[i];
    if (stride % kAlignBytes != 0 || stride < inner_bytes || stride >= kStrideMaxBytes) {
      return absl::StrCat("expected a stride of a multiple of 16 bytes, at least ", inner_bytes,
                          ", for dimension ", i + 1, " of a tensor map, found ", stride);
    }
    inner_bytes = (spec.sizes[i + 1] - 1) * stride + inner_bytes;
  }
  return "";
}

std::string BoxProblem(const TensorMapSpec& spec) {
  for (int i = 0; i < spec.rank; ++i) {
    if (spec.sizes[i] < 1 || spec.sizes[i] > kSizeMax) {
      return absl::StrCat("expected 1 to 2^32 values in dimension ", i, " of a tensor map, found ",
                          spec.sizes[i]);
    }
    if (spec.box[i] < 1 || spec.box[i] > kBoxMax || spec.box[i] > spec.sizes[i]) {
      return absl::StrCat("expected a box of 1 to ", std::min<int64_t>(kBoxMax, spec.sizes[i]),
                          " values in dimension ", i, " of a tensor map, found ", spec.box[i]);
    }
  }
  const int64_t row_bytes = spec.box[0] * BytesOf(spec.element);
  if (row_bytes % kAlignBytes != 0) {
    return absl::StrCat("expected a box whose rows are a multiple of 16 bytes, found ", row_bytes);
  }
  if (spec.swizzle_128 && row_bytes != kSwizzleBytes) {
    return absl::StrCat("expected rows of 128 bytes in a box with a swizzle, found ", row_bytes);
  }
  return "";
}

}  // namespace

std::string TensorMapProblem(const TensorMapSpec& spec) {
  if (spec.rank < 2 || spec.rank > kTensorRankMax) {
    return absl::StrCat("expected a tensor map of 2 or 3 dimensions, found ", spec.rank);
  }
  if (spec.base == nullptr || reinterpret_cast<uintptr_t>(spec.base) % kAlignBytes != 0) {
    return "expected the tensor of a tensor map at a multiple of 16 bytes";
  }
  std::string problem = BoxProblem(spec);
  return problem.empty() ? StrideProblem(spec) : problem;
}

}  // namespace tandem::gpu_worker::cuda
