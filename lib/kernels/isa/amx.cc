// Kernels for AVX-512 with VNNI and the AMX tile unit.
#include <immintrin.h>

#include <cstddef>
#include <cstdint>

#include "lib/kernels/body/byte_masks.h"
#include "lib/kernels/isa/lane_macros.h"
#include "lib/kernels/isa/tables.h"
#include "lib/kernels/packed_form.h"
#include "lib/tensor/blocks.h"
#include "lib/tensor/iquant_grids.h"

#define TANDEM_TARGET \
  "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,amx-tile,amx-int8,amx-bf16"
#include "lib/kernels/isa/target_begin.h"

namespace tandem::kernels::amx {
// Lanes first: the bodies are written in them.
// clang-format off
#include "lib/kernels/isa/lanes_avx512.inl"
#include "lib/kernels/isa/dot_avx512_vnni.inl"
#include "lib/kernels/body/all.inl"
#include "lib/kernels/body/tiles_amx.inl"
// clang-format on
}  // namespace tandem::kernels::amx

#include "lib/kernels/isa/target_end.h"
namespace tandem::kernels {

const KernelTable* AmxTable() {
  static const KernelTable table = [] {
    KernelTable made = amx::MakeTable("amx");
    amx::SetTiles(&made);
    return made;
  }();
  return &table;
}

}  // namespace tandem::kernels
