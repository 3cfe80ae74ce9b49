// The tables that isa/*.cc define. Only kernel_table.cc asks for them, after it has looked at the
// processor.
#pragma once

#include "lib/kernels/kernel_table.h"

namespace tandem::kernels {

const KernelTable* ScalarTable();
#if defined(__x86_64__)
const KernelTable* Avx2Table();
const KernelTable* AvxVnniTable();
const KernelTable* Avx512Table();
const KernelTable* Avx512VnniTable();
const KernelTable* AmxTable();
#endif

}  // namespace tandem::kernels
