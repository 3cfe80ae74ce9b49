#include "lib/kernels/weights.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"
#include "lib/kernels/packed_form.h"

namespace tandem::kernels {

bool HasMins(DType type) { return FormOf(type).has_mins(); }

bool IsIntegerForm(DType type) { return ActiveTable().unpack[static_cast<int>(type)] != nullptr; }

absl::Status CheckWeightType(DType type, int64_t cols, int64_t fp8_cols) {
  const bool is_float =
      type == DType::kF32 || type == DType::kF16 || type == DType::kBF16 || type == DType::kF8E4M3;
  if (!is_float && !IsIntegerForm(type)) {
    return absl::UnimplementedError(absl::StrCat("no kernel for weights of type ", NameOf(type)));
  }
  if (cols <= 0 || (!is_float && cols % kActivationBlock != 0)) {
    return absl::InvalidArgumentError(absl::StrCat("weights of type ", NameOf(type),
                                                   " need a row length that is a multiple of ",
                                                   kActivationBlock, ", found ", cols));
  }
  if (fp8_cols % kBlockCols != 0) {
    return absl::UnimplementedError(absl::StrCat("expected a multiple of ", kBlockCols,
                                                 " columns to each block scale, found ", fp8_cols));
  }
  return absl::OkStatus();
}

void UnpackWeights(const KernelTable& table, DType type, const std::byte* src, int64_t cols,
                   const UnpackedRow& out) {
  const UnpackRow unpack = table.unpack[static_cast<int>(type)];
  TANDEM_CHECK(unpack != nullptr);
  unpack(src, cols, out);
  const int64_t padded = PaddedCodes(cols);
  if (padded == cols) return;
  std::memset(out.codes + cols, 0, static_cast<size_t>(padded - cols));
  for (int64_t g = cols / kWeightGroup; g < padded / kWeightGroup; ++g) {
    out.scales[g] = 0.0f;
    if (HasMins(type)) out.mins[g] = 0.0f;
  }
}

}  // namespace tandem::kernels
