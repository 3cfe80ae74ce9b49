// Rows of weights for tests and benchmarks: blocks of random codes with scales of a chosen size.
// Any bytes with finite scales are a legal row of any format, so nothing has to be quantized to
// make one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

#include "lib/tensor/dtype.h"

namespace tandem::kernels {

// `rows` rows of `cols` values. Quantized formats: every code byte is `fill` (0..255) or random
// when fill < 0; the scales of a block are random with both signs and magnitudes around `scale`, so
// values have the size of scale times the largest code. Float formats: normal values of size
// `scale`.
std::vector<std::byte> RandomRows(DType type, int64_t rows, int64_t cols, float scale, int fill,
                                  std::mt19937_64& random);

}  // namespace tandem::kernels
