// The table every processor can run: plain C++, sixteen lanes in an array.
#include <cstddef>
#include <cstdint>

#include "lib/kernels/body/byte_masks.h"
#include "lib/kernels/isa/lane_macros.h"
#include "lib/kernels/isa/tables.h"
#include "lib/kernels/packed_form.h"
#include "lib/tensor/blocks.h"
#include "lib/tensor/iquant_grids.h"

namespace tandem::kernels::scalar {
// Lanes first: the bodies are written in them.
// clang-format off
#include "lib/kernels/isa/lanes_scalar.inl"
#include "lib/kernels/body/all.inl"
// clang-format on
}  // namespace tandem::kernels::scalar

namespace tandem::kernels {

const KernelTable* ScalarTable() {
  static const KernelTable table = scalar::MakeTable("scalar");
  return &table;
}

}  // namespace tandem::kernels
