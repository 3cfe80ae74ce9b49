#include "lib/kernels/marlin_pack.h"

#include "lib/base/check.h"

namespace tandem::kernels {
namespace {

int64_t RoundUp(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

}  // namespace

MarlinPacked PackMarlin(const MarlinForm& form, const std::vector<uint8_t>& codes,
                        const std::vector<uint16_t>& scales, int64_t outputs, int64_t cols) {
  const int64_t groups = form.Groups(cols);
  TANDEM_CHECK_EQ(static_cast<int64_t>(codes.size()), outputs * cols);
  TANDEM_CHECK_EQ(static_cast<int64_t>(scales.size()), outputs * groups);
  MarlinPacked packed;
  packed.form = form;
  packed.k_padded = RoundUp(cols, kMarlinKMultiple);
  packed.n_padded = RoundUp(outputs, kMarlinNMultiple);
  packed.words.resize(packed.k_padded * packed.n_padded * form.bits / 32);
  const uint32_t zero = 1u << (form.bits - 1);
  for (int64_t n = 0; n < packed.n_padded; ++n) {
    for (int64_t k = 0; k < packed.k_padded; ++k) {
      const MarlinPlace place = MarlinCodePlace(form.bits, k, n, packed.n_padded);
      const uint32_t code = n < outputs && k < cols ? codes[n * cols + k] : zero;
      packed.words[place.word] |= code << place.shift;
    }
  }
  const int64_t padded_groups = packed.k_padded / form.group;
  packed.scales.resize(padded_groups * packed.n_padded);
  for (int64_t g = 0; g < groups; ++g) {
    for (int64_t n = 0; n < outputs; ++n) {
      packed.scales[g * packed.n_padded + MarlinScalePlace(padded_groups, n)] =
          scales[n * groups + g];
    }
  }
  return packed;
}

void UnpackMarlin(const MarlinPacked& packed, int64_t outputs, int64_t cols,
                  std::vector<uint8_t>* codes, std::vector<uint16_t>* scales) {
  TANDEM_CHECK(outputs <= packed.n_padded && cols <= packed.k_padded);
  const uint32_t mask = (1u << packed.form.bits) - 1;
  const int64_t groups = packed.form.Groups(cols);
  const int64_t padded_groups = packed.k_padded / packed.form.group;
  codes->resize(outputs * cols);
  scales->resize(outputs * groups);
  for (int64_t n = 0; n < outputs; ++n) {
    for (int64_t k = 0; k < cols; ++k) {
      const MarlinPlace place = MarlinCodePlace(packed.form.bits, k, n, packed.n_padded);
      (*codes)[n * cols + k] = static_cast<uint8_t>(packed.words[place.word] >> place.shift & mask);
    }
    for (int64_t g = 0; g < groups; ++g) {
      (*scales)[n * groups + g] =
          packed.scales[g * packed.n_padded + MarlinScalePlace(padded_groups, n)];
    }
  }
}

}  // namespace tandem::kernels
