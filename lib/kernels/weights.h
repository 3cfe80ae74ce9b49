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

// OK when `type` can hold weights of a layer with contraction length `cols` and, for fp8, one block
// scale for `fp8_cols` columns (0: none). UNIMPLEMENTED names a type without a kernel, or says that
// a scale changes inside the 32 columns that are multiplied at a time; INVALID_ARGUMENT, for
// block-quantized types, a length that is no multiple of 32 (one scale of quantized activations).
absl::Status CheckWeightType(DType type, int64_t cols, int64_t fp8_cols = 0);

// Unpacks one row of `cols` weights at the even address `src` and pads it to PaddedCodes(cols).
// CheckWeightType has passed.
void UnpackWeights(const KernelTable& table, DType type, const std::byte* src, int64_t cols,
                   const UnpackedRow& out);

}  // namespace tandem::kernels
