#include "lib/tensor/dtype.h"

#include <array>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "lib/base/check.h"
#include "lib/base/text.h"

namespace tandem {
namespace {

constexpr size_t kTypes = static_cast<size_t>(DType::kCount);

// Indexed by DType. Bytes of the quantized types are the sums of the fields listed in
// lib/tensor/blocks.h.
constexpr std::array<DTypeInfo, kTypes> kInfo = {{
    {"f32", 1, 4, false},      {"f16", 1, 2, false},     {"bf16", 1, 2, false},
    {"f8_e4m3", 1, 1, false},  {"i32", 1, 4, false},     {"q8_0", 32, 34, true},
    {"q4_0", 32, 18, true},    {"q4_1", 32, 20, true},   {"q5_0", 32, 22, true},
    {"q5_1", 32, 24, true},    {"q2_K", 256, 84, true},  {"q3_K", 256, 110, true},
    {"q4_K", 256, 144, true},  {"q5_K", 256, 176, true}, {"q6_K", 256, 210, true},
    {"iq1_s", 256, 50, true},  {"iq1_m", 256, 56, true}, {"iq2_xxs", 256, 66, true},
    {"iq2_xs", 256, 74, true}, {"iq2_s", 256, 82, true}, {"iq3_xxs", 256, 98, true},
    {"iq3_s", 256, 110, true}, {"iq4_nl", 32, 18, true}, {"iq4_xs", 256, 136, true},
}};

}  // namespace

const DTypeInfo& InfoOf(DType type) {
  TANDEM_CHECK_LT(static_cast<size_t>(type), kTypes);
  return kInfo[static_cast<size_t>(type)];
}

absl::StatusOr<DType> ParseDType(std::string_view name) {
  std::string known;
  for (size_t i = 0; i < kTypes; ++i) {
    if (absl::EqualsIgnoreCase(base::ToAbsl(name), kInfo[i].name)) return static_cast<DType>(i);
    absl::StrAppend(&known, i == 0 ? "" : ", ", kInfo[i].name);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("unknown tensor type '", base::ToAbsl(name), "', expected one of: ", known));
}

absl::StatusOr<int64_t> RowBytes(DType type, int64_t cols) {
  const DTypeInfo& info = InfoOf(type);
  if (cols <= 0 || cols % info.block_elems != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("expected a row length that is a positive multiple of ", info.block_elems,
                     " for ", info.name, ", found ", cols));
  }
  int64_t bytes = 0;
  if (__builtin_mul_overflow(cols / info.block_elems, int64_t{info.block_bytes}, &bytes)) {
    return absl::OutOfRangeError(absl::StrCat("expected a row of fewer than 2^63 bytes, found ",
                                              cols, " ", info.name, " values"));
  }
  return bytes;
}

}  // namespace tandem
