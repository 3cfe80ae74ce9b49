#include "lib/tensor/codec.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"
#include "lib/base/status_macros.h"
#include "lib/tensor/block_codec.h"

namespace tandem {
namespace {

template <typename Element>
Element Load(const std::byte* src, int64_t index) {
  return LoadBlock<Element>(src, index);
}

template <typename Block>
void DecodeRow(const std::byte* src, int64_t cols, int block_elems, float* dst) {
  for (int64_t b = 0; b < cols / block_elems; ++b) {
    DecodeBlock(LoadBlock<Block>(src, b), dst + b * block_elems);
  }
}

template <typename Element, typename Convert>
void ConvertRow(const std::byte* src, int64_t cols, float* dst, Convert convert) {
  for (int64_t i = 0; i < cols; ++i) dst[i] = convert(Load<Element>(src, i));
}

// Applies `visit` to a null pointer of the block struct of `type`; false for types without blocks.
template <typename Visit>
bool VisitBlockType(DType type, Visit visit) {
  switch (type) {
    case DType::kQ8_0:
      visit(static_cast<BlockQ8_0*>(nullptr));
      return true;
    case DType::kQ4_0:
      visit(static_cast<BlockQ4_0*>(nullptr));
      return true;
    case DType::kQ4_1:
      visit(static_cast<BlockQ4_1*>(nullptr));
      return true;
    case DType::kQ5_0:
      visit(static_cast<BlockQ5_0*>(nullptr));
      return true;
    case DType::kQ5_1:
      visit(static_cast<BlockQ5_1*>(nullptr));
      return true;
    case DType::kQ2_K:
      visit(static_cast<BlockQ2_K*>(nullptr));
      return true;
    case DType::kQ3_K:
      visit(static_cast<BlockQ3_K*>(nullptr));
      return true;
    case DType::kQ4_K:
      visit(static_cast<BlockQ4_K*>(nullptr));
      return true;
    case DType::kQ5_K:
      visit(static_cast<BlockQ5_K*>(nullptr));
      return true;
    case DType::kQ6_K:
      visit(static_cast<BlockQ6_K*>(nullptr));
      return true;
    case DType::kIQ1_S:
      visit(static_cast<BlockIQ1_S*>(nullptr));
      return true;
    case DType::kIQ1_M:
      visit(static_cast<BlockIQ1_M*>(nullptr));
      return true;
    case DType::kIQ2_XXS:
      visit(static_cast<BlockIQ2_XXS*>(nullptr));
      return true;
    case DType::kIQ2_XS:
      visit(static_cast<BlockIQ2_XS*>(nullptr));
      return true;
    case DType::kIQ2_S:
      visit(static_cast<BlockIQ2_S*>(nullptr));
      return true;
    case DType::kIQ3_XXS:
      visit(static_cast<BlockIQ3_XXS*>(nullptr));
      return true;
    case DType::kIQ3_S:
      visit(static_cast<BlockIQ3_S*>(nullptr));
      return true;
    case DType::kIQ4_NL:
      visit(static_cast<BlockIQ4_NL*>(nullptr));
      return true;
    case DType::kIQ4_XS:
      visit(static_cast<BlockIQ4_XS*>(nullptr));
      return true;
    default:
      return false;
  }
}

bool IsFiniteF16(uint16_t bits) { return (bits & 0x7C00) != 0x7C00; }

template <typename Block>
bool HasFiniteScales(const Block& block) {
  bool finite = true;
  if constexpr (requires { block.d; }) finite = finite && IsFiniteF16(block.d);
  if constexpr (requires { block.m; }) finite = finite && IsFiniteF16(block.m);
  if constexpr (requires { block.dmin; }) finite = finite && IsFiniteF16(block.dmin);
  return finite;
}
bool HasFiniteScales(const BlockIQ1_M& block) { return IsFiniteF16(SuperScaleIQ1_M(block.scales)); }

absl::Status EncodeBlock(const float* src, int64_t index, BlockQ8_0* block) {
  float amax = 0;
  for (int i = 0; i < kSmallBlock; ++i) {
    if (!std::isfinite(src[i])) {
      return absl::InvalidArgumentError(
          absl::StrCat("block ", index, ": expected finite values for q8_0, found ", src[i]));
    }
    amax = std::max(amax, std::fabs(src[i]));
  }
  const float d = amax / 127;  // the largest magnitude becomes code 127
  block->d = F32ToF16(d);
  if (!IsFiniteF16(block->d)) {
    return absl::OutOfRangeError(absl::StrCat("block ", index, ": expected magnitudes below ",
                                              65520 * 127, " for q8_0, found ", amax));
  }
  // 1/d overflows for d below 2^-128; the stored scale is zero there, and so are the codes.
  const float inverse = d == 0 || std::isinf(1 / d) ? 0 : 1 / d;
  // llama.cpp rounds codes half away from zero; files must agree with it.
  for (int i = 0; i < kSmallBlock; ++i)
    block->qs[i] = static_cast<int8_t>(std::round(src[i] * inverse));
  return absl::OkStatus();
}

template <typename Element, typename Convert>
void StoreRow(const float* src, int64_t cols, std::byte* dst, Convert convert) {
  for (int64_t i = 0; i < cols; ++i) {
    const Element element = convert(src[i]);
    std::memcpy(dst + i * sizeof(Element), &element, sizeof(Element));
  }
}

absl::Status StoreRowQ8_0(const float* src, int64_t cols, std::byte* dst) {
  for (int64_t b = 0; b < cols / kSmallBlock; ++b) {
    BlockQ8_0 block;
    TANDEM_RETURN_IF_ERROR(EncodeBlock(src + b * kSmallBlock, b, &block));
    std::memcpy(dst + b * sizeof(block), &block, sizeof(block));
  }
  return absl::OkStatus();
}

}  // namespace

void DequantizeRow(DType type, const std::byte* src, int64_t cols, float* dst) {
  const int block_elems = InfoOf(type).block_elems;
  TANDEM_CHECK_EQ(cols % block_elems, 0);
  switch (type) {
    case DType::kF32:
      return ConvertRow<float>(src, cols, dst, [](float v) { return v; });
    case DType::kF16:
      return ConvertRow<uint16_t>(src, cols, dst, F16ToF32);
    case DType::kBF16:
      return ConvertRow<uint16_t>(src, cols, dst, BF16ToF32);
    case DType::kF8E4M3:
      return ConvertRow<uint8_t>(src, cols, dst, F8E4M3ToF32);
    default:
      break;
  }
  const bool known = VisitBlockType(
      type, [&]<typename Block>(Block*) { DecodeRow<Block>(src, cols, block_elems, dst); });
  TANDEM_CHECK(known);  // kI32 holds no real numbers
}

absl::Status QuantizeRow(DType type, const float* src, int64_t cols, std::byte* dst) {
  TANDEM_RETURN_IF_ERROR(RowBytes(type, cols).status());
  switch (type) {
    case DType::kF32:
      std::memcpy(dst, src, cols * sizeof(float));
      return absl::OkStatus();
    case DType::kF16:
      StoreRow<uint16_t>(src, cols, dst, F32ToF16);
      return absl::OkStatus();
    case DType::kBF16:
      StoreRow<uint16_t>(src, cols, dst, F32ToBF16);
      return absl::OkStatus();
    case DType::kF8E4M3:
      StoreRow<uint8_t>(src, cols, dst, F32ToF8E4M3);
      return absl::OkStatus();
    case DType::kQ8_0:
      return StoreRowQ8_0(src, cols, dst);
    default:
      return absl::UnimplementedError(absl::StrCat("cannot quantize to ", NameOf(type),
                                                   ", expected f32, f16, bf16, f8_e4m3 or q8_0"));
  }
}

absl::Status ValidateRow(DType type, const std::byte* src, int64_t cols) {
  TANDEM_RETURN_IF_ERROR(RowBytes(type, cols).status());
  int64_t bad = -1;
  if (type == DType::kF8E4M3) {
    // NaN is the only value kernels of this format do not carry; no real weight is one.
    const auto nan = std::find_if(src, src + cols, [](std::byte code) {
      return (code & std::byte{0x7f}) == std::byte{0x7f};
    });
    if (nan == src + cols) return absl::OkStatus();
    return absl::DataLossError(
        absl::StrCat("value ", nan - src, " of the row: expected a number, found an f8_e4m3 NaN"));
  }
  VisitBlockType(type, [&]<typename Block>(Block*) {
    const int64_t blocks = cols / InfoOf(type).block_elems;
    for (int64_t b = 0; b < blocks && bad < 0; ++b) {
      if (!HasFiniteScales(LoadBlock<Block>(src, b))) bad = b;
    }
  });
  if (bad < 0) return absl::OkStatus();
  return absl::DataLossError(absl::StrCat("block ", bad, " of the row: expected a finite ",
                                          NameOf(type), " scale, found infinity or NaN"));
}

}  // namespace tandem
