// Kernels for AVX2 with AVX-VNNI: the same integers with fewer instructions.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "lib/kernels/body/byte_masks.h"
#include "lib/kernels/isa/lane_macros.h"
#include "lib/kernels/isa/tables.h"
#include "lib/kernels/packed_form.h"
#include "lib/tensor/blocks.h"
#include "lib/tensor/iquant_grids.h"

#define TANDEM_TARGET "avx2,fma,f16c,avxvnni"
#include "lib/kernels/isa/target_begin.h"

namespace tandem::kernels::avx_vnni {
// Lanes first: the bodies are written in them.
// clang-format off
#include "lib/kernels/isa/lanes_avx2.inl"
#include "lib/kernels/isa/dot_avx_vnni.inl"
#include "lib/kernels/body/all.inl"
// clang-format on
}  // namespace tandem::kernels::avx_vnni

#include "lib/kernels/isa/target_end.h"
namespace tandem::kernels {

const KernelTable* AvxVnniTable() {
  static const KernelTable table = avx_vnni::MakeTable("avx_vnni");
  return &table;
}

}  // namespace tandem::kernels
