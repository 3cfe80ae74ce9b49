// Where the Marlin kernels for GPUs expect each code and scale, so that a matrix quantized by
// QuantizeMarlinRow can be handed to one as it is. Facts are those of IST-DASLab/marlin and vLLM's
// gptq_marlin, checked against the latter (tests/golden/marlin).
//
// Codes: the matrix W^T [K, N] in tiles of 16 by 64, tiles of one band of K in a row. In a tile
// thread t of a warp finds, for each of four runs of 16 outputs, its share of the B operand of two
// mma.m16n8k16: inputs 2 (t mod 4) + {0, 1, 8, 9} of output t / 4, then of output t / 4 + 8. int4:
// the eight codes of a run are one word whose nibbles hold codes 0, 2, 4, 6, 1, 3, 5, 7, so that
// one mask takes a pair of 16-bit operands from a word; int8: two words, one an output, bytes 0, 2,
// 1, 3. Scales: per group, outputs are shuffled in runs of 64 so that a thread loads those of its
// outputs at once; a matrix of one group in runs of 32. Padding: K up to a multiple of 128 and N up
// to one of 64, which the kernels want, with the code of zero and scale zero: padded inputs add
// nothing, padded outputs are to be dropped.
#pragma once

#include <cstdint>
#include <vector>

#include "lib/kernels/marlin_linear.h"

#if defined(__CUDACC__)
#define TANDEM_HOST_DEVICE __host__ __device__
#else
#define TANDEM_HOST_DEVICE
#endif

namespace tandem::kernels {

inline constexpr int64_t kMarlinKMultiple = 128;
inline constexpr int64_t kMarlinNMultiple = 64;

struct MarlinPlace {
  int64_t word = 0;  // of 32 bits
  int shift = 0;     // of the code's lowest bit
};

// Where the code of input k and output n lies; n_padded is a multiple of 64.
TANDEM_HOST_DEVICE constexpr MarlinPlace MarlinCodePlace(int bits, int64_t k, int64_t n,
                                                         int64_t n_padded) {
  const auto row = static_cast<int>(k % 16), run = static_cast<int>(n % 64 / 16);
  const auto half = static_cast<int>(n % 16 / 8);  // which of the two mma
  const int thread = static_cast<int>(n % 8) * 4 + row % 8 / 2;
  const int of_output = row / 8 * 2 + row % 2;  // which of the thread's four inputs
  const int64_t run_index = ((k / 16 * (n_padded / 64) + n / 64) * 32 + thread) * 4 + run;
  if (bits == 4) {
    const int code = 4 * half + of_output;
    return {run_index, 4 * (code / 2 + code % 2 * 4)};
  }
  return {run_index * 2 + half, 8 * (of_output / 2 + of_output % 2 * 2)};
}

// Where the scale of output n lies within its group's n_padded; `groups` of the padded matrix.
TANDEM_HOST_DEVICE constexpr int64_t MarlinScalePlace(int64_t groups, int64_t n) {
  if (groups > 1) return n / 64 * 64 + n % 8 * 8 + n % 64 / 8;
  return n / 32 * 32 + n % 8 / 2 * 8 + n % 32 / 8 * 2 + n % 2;
}

struct MarlinPacked {
  MarlinForm form;
  int64_t k_padded = 0, n_padded = 0;
  std::vector<uint32_t> words;   // [k_padded / 16, n_padded * 16 * bits / 32]
  std::vector<uint16_t> scales;  // [k_padded / group, n_padded] bf16
};

// codes [outputs, cols] one a byte, scales [outputs, form.Groups(cols)], as QuantizeMarlinRow makes
// them.
MarlinPacked PackMarlin(const MarlinForm& form, const std::vector<uint8_t>& codes,
                        const std::vector<uint16_t>& scales, int64_t outputs, int64_t cols);

// The inverse, without the padding.
void UnpackMarlin(const MarlinPacked& packed, int64_t outputs, int64_t cols,
                  std::vector<uint8_t>* codes, std::vector<uint16_t>* scales);

}  // namespace tandem::kernels
