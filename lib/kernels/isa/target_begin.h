// Opens a region whose functions are compiled for the instruction sets named by TANDEM_TARGET, a
// string literal such as "avx2,fma,f16c"; isa/target_end.h closes it. A compile flag per file
// (-mavx512f) would do the same to every inline function of every header the file includes, and the
// linker keeps one copy of those for the whole program; so standard headers come first, outside,
// and the flags stay those of the baseline. No include guard: included once per region.
#ifndef TANDEM_TARGET
#error "define TANDEM_TARGET before including isa/target_begin.h"
#endif

#define TANDEM_PRAGMA_OF(text) _Pragma(#text)
#define TANDEM_PRAGMA(text) TANDEM_PRAGMA_OF(text)

#if defined(__clang__)
TANDEM_PRAGMA(clang attribute push(__attribute__((target(TANDEM_TARGET))), apply_to = function))
#else
TANDEM_PRAGMA(GCC push_options)
TANDEM_PRAGMA(GCC target(TANDEM_TARGET))
#endif
