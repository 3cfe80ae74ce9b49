// Kernels for AVX-512 F, BW, DQ, VL.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "lib/kernels/body/byte_masks.h"
#include "lib/kernels/isa/lane_macros.h"
#include "lib/kernels/isa/tables.h"
#include "lib/kernels/packed_form.h"
#include "lib/tensor/blocks.h"
#include "lib/tensor/iquant_grids.h"

#define TANDEM_TARGET "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl"
#include "lib/kernels/isa/target_begin.h"

namespace tandem::kernels::avx512 {
// Lanes first: the bodies are written in them.
// clang-format off
#include "lib/kernels/isa/lanes_avx512.inl"
#include "lib/kernels/isa/dot_avx512.inl"
#include "lib/kernels/body/all.inl"
// clang-format on
}  // namespace tandem::kernels::avx512

#include "lib/kernels/isa/target_end.h"
namespace tandem::kernels {

const KernelTable* Avx512Table() {
  static const KernelTable table = avx512::MakeTable("avx512");
  return &table;
}

}  // namespace tandem::kernels
