// The decoders behind DequantizeRow, one per block struct: each writes all values of one block to
// `dst`. Private to lib/tensor.
#pragma once

#include "lib/tensor/blocks.h"

namespace tandem {

void DecodeBlock(const BlockQ8_0& block, float* dst);
void DecodeBlock(const BlockQ4_0& block, float* dst);
void DecodeBlock(const BlockQ4_1& block, float* dst);
void DecodeBlock(const BlockQ5_0& block, float* dst);
void DecodeBlock(const BlockQ5_1& block, float* dst);
void DecodeBlock(const BlockQ2_K& block, float* dst);
void DecodeBlock(const BlockQ3_K& block, float* dst);
void DecodeBlock(const BlockQ4_K& block, float* dst);
void DecodeBlock(const BlockQ5_K& block, float* dst);
void DecodeBlock(const BlockQ6_K& block, float* dst);
void DecodeBlock(const BlockIQ1_S& block, float* dst);
void DecodeBlock(const BlockIQ1_M& block, float* dst);
void DecodeBlock(const BlockIQ2_XXS& block, float* dst);
void DecodeBlock(const BlockIQ2_XS& block, float* dst);
void DecodeBlock(const BlockIQ2_S& block, float* dst);
void DecodeBlock(const BlockIQ3_XXS& block, float* dst);
void DecodeBlock(const BlockIQ3_S& block, float* dst);
void DecodeBlock(const BlockIQ4_NL& block, float* dst);
void DecodeBlock(const BlockIQ4_XS& block, float* dst);

}  // namespace tandem
