// What the bodies need from the compiler besides an instruction set.
#pragma once

// Small functions on registers: a call would spill the registers the tiles live in.
#define TANDEM_LANE static inline __attribute__((always_inline))

#define TANDEM_LANE_MEMBER inline __attribute__((always_inline))

// Loops over a register tile must be unrolled whole, or the tile lies in memory.
#if defined(__clang__)
#define TANDEM_UNROLL _Pragma("unroll")
#else
#define TANDEM_UNROLL _Pragma("GCC unroll 16")
#endif
