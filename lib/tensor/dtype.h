// The number formats of the project and their block geometry. Weights are arrays of blocks:
// `block_elems` consecutive values of a row (along K, the contraction dimension) packed into
// `block_bytes` bytes. docs/formats.md describes each.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tandem {

// The numeric values are ours and stay inside a process; files and wire use names.
enum class DType : uint8_t {
  kF32,
  kF16,
  kBF16,
  kF8E4M3,  // OCP e4m3fn; block scales, where a file has them, are a second tensor
  kI32,
  kQ8_0,
  kQ4_0,
  kQ4_1,
  kQ5_0,
  kQ5_1,
  kQ2_K,
  kQ3_K,
  kQ4_K,
  kQ5_K,
  kQ6_K,
  kIQ1_S,
  kIQ1_M,
  kIQ2_XXS,
  kIQ2_XS,
  kIQ2_S,
  kIQ3_XXS,
  kIQ3_S,
  kIQ4_NL,
  kIQ4_XS,
  kCount,
};

struct DTypeInfo {
  const char* name;     // as GGUF spells it, lower case: "q4_K", "iq1_s", "bf16"
  int32_t block_elems;  // values per block
  int32_t block_bytes;  // bytes per block
  bool is_quantized;    // true for every type whose blocks carry a scale
};

const DTypeInfo& InfoOf(DType type);
inline const char* NameOf(DType type) { return InfoOf(type).name; }

// Inverse of NameOf, case-insensitive. INVALID_ARGUMENT names the unknown type and lists the known
// ones.
absl::StatusOr<DType> ParseDType(std::string_view name);

// Bytes of a row of `cols` values. INVALID_ARGUMENT when cols is not a positive multiple of
// block_elems, OUT_OF_RANGE when the product overflows.
absl::StatusOr<int64_t> RowBytes(DType type, int64_t cols);

}  // namespace tandem
