// Rows of quantized weights for the dot product of quant.h, whatever format they are stored in.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/status/status.h"
#include "lib/kernels/kernel_table.h"
#include "lib/tensor/dtype.h"

namespace tandem::kernels {

// True for formats whose values are scale * code - min with a minimum of their own.
bool HasMins(DType type);

// True when weights of `type` are multiplied as integers (every block-quantized format); false for
// f32, f16, bf16 and fp8, which are multiplied as floats.
bool IsIntegerForm(DType type);

// OK when `type` can hold weights of an FFN with contraction length `cols`. UNIMPLEMENTED names a
// type without a kernel, INVALID_ARGUMENT, for block-quantized types, a length that is no multiple
// of 32 (one scale of quantized activations covers 32 values).
absl::Status CheckWeightType(DType type, int64_t cols);

// Unpacks one row of `cols` weights at the even address `src` and pads it to PaddedCodes(cols).
// CheckWeightType has passed.
void UnpackWeights(const KernelTable& table, DType type, const std::byte* src, int64_t cols,
                   const UnpackedRow& out);

}  // namespace tandem::kernels
