// Products of a warpgroup (wgmma, sm_90a): D [64, n] f32 in registers += A B, A [64, k] in shared
// memory or registers, B [k, n] in shared memory, k = 16 for bf16 and 32 for e4m3. They run beside
// the threads: fence, issue some, commit them as a group, wait for the group; between issue and
// wait nobody touches accumulators, A's registers or the operands in shared memory. The emulator
// makes accumulators NaN meanwhile and does the products at the wait (seed 0) or either at the
// issue or at the wait (others).
//
// Fragments (PTX ISA, "Register fragments for wgmma.mma_async.m64nNk16"), thread = 32 w + 4 g + t
// of its warpgroup:
//   D, n / 2 floats: d[4 j], d[4 j + 1] row 16 w + g, columns 8 j + 2 t and + 1; d[4 j + 2],
//     d[4 j + 3] row 16 w + g + 8, the same columns
//   A bf16 [64, 16], 4 words: that of mma.h, rows 16 w and on. So columns 16 j to 16 j + 15 of a D,
//     rounded to pairs of bf16, are the A words (8 j, 8 j + 1), (8 j + 2, 8 j + 3), (8 j + 4,
//     8 j + 5), (8 j + 6, 8 j + 7) of it.
//
// Operands in shared memory: rows of 128 bytes with the swizzle of hopper.h, as a TMA load with a
// swizzle brings them; eight rows (1024 bytes) are one block, aligned to 1024.
//   K-major: a row is one row of A (column of B), 128 bytes of consecutive k: 64 bf16 or 128 e4m3.
//     Groups of eight rows lie 1024 bytes apart. The next k step is 32 bytes on.
//   MN-major (bf16 only): a row is one k, 64 consecutive columns of B. Eight k are a block, the
//   next
//     eight 1024 bytes on; the next 64 columns `columns_stride_bytes` on. The next k step (16) is
//     2048 bytes on.
//   K-major without a swizzle: core matrices of eight rows by 16 bytes of k, 128 contiguous bytes;
//     the next eight rows `rows_stride_bytes`, the next 16 bytes of k `k_stride_bytes` on. The next
//     k step is two of the latter on.
#pragma once

#include "gpu_worker/backend/cuda/simt/hopper.h"

namespace tandem::gpu_worker::cuda {

#if !defined(__CUDACC__)
namespace emulator {
struct WgmmaShape {
  int n = 0;
  bool e4m3 = false;
  bool transposed_b = false;
};
void WgmmaFence();
void WgmmaIssue(const WgmmaShape& shape, float* d, const uint32_t* a, uint64_t a_descriptor,
                uint64_t b_descriptor, bool accumulate);
void WgmmaCommit();
void WgmmaWait(int groups_pending_max);
}  // namespace emulator
#endif

// Fields of a descriptor (PTX ISA, "Matrix descriptor"): bits 0-13 address, 16-29 leading and 32-45
// stride byte offset, all in units of 16 bytes; 62-63 layout, 1 for the swizzle of 128 bytes, 0 for
// none.
__device__ __forceinline__ uint64_t WgmmaDescriptor(const void* tile, uint32_t leading_bytes,
                                                    uint32_t stride_bytes) {
  return static_cast<uint64_t>(SharedAddress(tile) >> 4 & 0x3fffu) |
         static_cast<uint64_t>(leading_bytes >> 4 & 0x3fffu) << 16 |
         static_cast<uint64_t>(stride_bytes >> 4 & 0x3fffu) << 32 | uint64_t{1} << 62;
}

inline constexpr uint32_t kSwizzleBlockBytes = 1024;  // eight rows of 128 bytes
inline constexpr uint32_t kKMajorStepBytes = 32;      // 16 bf16, 32 e4m3
inline constexpr uint32_t kMnMajorStepBytes = 2 * kSwizzleBlockBytes;

__device__ __forceinline__ uint64_t KMajorDescriptor(const void* tile) {
  return WgmmaDescriptor(tile, 16, kSwizzleBlockBytes);  // the leading offset does not count here
}
__device__ __forceinline__ uint64_t KMajorPlainDescriptor(const void* tile, uint32_t k_stride_bytes,
                                                          uint32_t rows_stride_bytes) {
  return WgmmaDescriptor(tile, k_stride_bytes, rows_stride_bytes) & ~(uint64_t{3} << 62);
}
__device__ __forceinline__ uint64_t MnMajorDescriptor(const void* tile,
                                                      uint32_t columns_stride_bytes) {
  return WgmmaDescriptor(tile, columns_stride_bytes, kSwizzleBlockBytes);
}
// The operand `bytes` (a multiple of 16) further on.
__device__ __forceinline__ uint64_t DescriptorAt(uint64_t descriptor, uint32_t bytes) {
  return descriptor + (bytes >> 4);
}

// Keeps the compiler from moving reads and writes of d across: the asm statements around it do not
// name the registers that the hardware works on.
template <int kCount>
__device__ __forceinline__ void HoldRegisters(float (&d)[kCount]) {
#if defined(__CUDACC__)
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
#endif
}

// Before the first product, and before one that uses registers written since.
template <int... kCounts>
__device__ __forceinline__ void WgmmaFence(float (&... d)[kCounts]) {
  (HoldRegisters(d), ...);
#if defined(TANDEM_SM90A)
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::WgmmaFence();
#endif
}

__device__ __forceinline__ void WgmmaCommit() {
#if defined(TANDEM_SM90A)
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::WgmmaCommit();
#endif
}

// Until at most kPending groups are under way. `d`: accumulators that are done with it.
template <int kPending, int... kCounts>
__device__ __forceinline__ void WgmmaWait(float (&... d)[kCounts]) {
#if defined(TANDEM_SM90A)
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::WgmmaWait(kPending);
#endif
  (HoldRegisters(d), ...);
}

#if defined(TANDEM_SM90A)
// Operands of the inline assembly: a list of n / 2 accumulators, by number in its text and by
// constraint behind it.
#define TANDEM_D4(i) "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3])
#define TANDEM_D8(i) TANDEM_D4(i), TANDEM_D4(i + 4)
#define TANDEM_D16(i) TANDEM_D8(i), TANDEM_D8(i + 8)
#define TANDEM_D32(i) TANDEM_D16(i), TANDEM_D16(i + 16)
#define TANDEM_D64(i) TANDEM_D32(i), TANDEM_D32(i + 32)
#define TANDEM_N10(p) \
  "%" p "0, %" p "1, %" p "2, %" p "3, %" p "4, %" p "5, %" p "6, %" p "7, %" p "8, %" p "9, "
#define TANDEM_TEXT8 "%0, %1, %2, %3, %4, %5, %6, %7"
#define TANDEM_TEXT16 TANDEM_N10("") "%10, %11, %12, %13, %14, %15"
#define TANDEM_TEXT32 TANDEM_N10("") TANDEM_N10("1") TANDEM_N10("2") "%30, %31"
// Laid out by hand: clang-format moves these lines a little further each time.
// clang-format off
#define TANDEM_TEXT64                                                                            \
  TANDEM_N10("") TANDEM_N10("1") TANDEM_N10("2") TANDEM_N10("3") TANDEM_N10("4") TANDEM_N10("5") \
  "%60, %61, %62, %63"
#define TANDEM_TEXT96                                                                            \
  TANDEM_N10("") TANDEM_N10("1") TANDEM_N10("2") TANDEM_N10("3") TANDEM_N10("4") TANDEM_N10("5") \
  TANDEM_N10("6") TANDEM_N10("7") TANDEM_N10("8") "%90, %91, %92, %93, %94, %95"
#define TANDEM_TEXT128                                                                           \
  TANDEM_N10("") TANDEM_N10("1") TANDEM_N10("2") TANDEM_N10("3") TANDEM_N10("4") TANDEM_N10("5") \
  TANDEM_N10("6") TANDEM_N10("7") TANDEM_N10("8") TANDEM_N10("9") TANDEM_N10("10")               \
  TANDEM_N10("11") "%120, %121, %122, %123, %124, %125, %126, %127"
// clang-format on
// One case for each n: its n / 2 accumulators and the numbers of the operands behind them.
#define TANDEM_EACH_N(X)                                                                 \
  if constexpr (kN == 16)                                                                \
    X(16, TANDEM_TEXT8, "8", "9", "10", "11", "12", "13", "14", TANDEM_D8(0))            \
  if constexpr (kN == 32)                                                                \
    X(32, TANDEM_TEXT16, "16", "17", "18", "19", "20", "21", "22", TANDEM_D16(0))        \
  if constexpr (kN == 64)                                                                \
    X(64, TANDEM_TEXT32, "32", "33", "34", "35", "36", "37", "38", TANDEM_D32(0))        \
  if constexpr (kN == 128)                                                               \
    X(128, TANDEM_TEXT64, "64", "65", "66", "67", "68", "69", "70", TANDEM_D64(0))       \
  if constexpr (kN == 192)                                                               \
    X(192, TANDEM_TEXT96, "96", "97", "98", "99", "100", "101", "102", TANDEM_D64(0),    \
      TANDEM_D32(64))                                                                    \
  if constexpr (kN == 256)                                                               \
  X(256, TANDEM_TEXT128, "128", "129", "130", "131", "132", "133", "134", TANDEM_D64(0), \
    TANDEM_D64(64))

#define TANDEM_WGMMA_BF16(n, text, o0, o1, o2, o3, o4, o5, o6, ...)                        \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" o2                                     \
               ", 0;\n"                                                                    \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" text "}, %" o0 \
               ", %" o1 ", p, 1, 1, 0, %" o3 ";\n}\n"                                      \
               : __VA_ARGS__                                                               \
               : "l"(a), "l"(b), "r"(accumulate), "n"(kTransposedB ? 1 : 0));
#define TANDEM_WGMMA_BF16_REGISTERS(n, text, o0, o1, o2, o3, o4, o5, o6, ...)               \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" o5                                      \
               ", 0;\n"                                                                     \
               "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.bf16.bf16 {" text "}, {%" o0 \
               ", %" o1 ", %" o2 ", %" o3 "}, %" o4 ", p, 1, 1, %" o6 ";\n}\n"              \
               : __VA_ARGS__                                                                \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(accumulate),       \
                 "n"(kTransposedB ? 1 : 0));
#define TANDEM_WGMMA_E4M3(n, text, o0, o1, o2, o3, o4, o5, o6, ...)                        \
  asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" o2                                     \
               ", 0;\n"                                                                    \
               "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32.e4m3.e4m3 {" text "}, %" o0 \
               ", %" o1 ", p, 1, 1;\n}\n"                                                  \
               : __VA_ARGS__                                                               \
               : "l"(a), "l"(b), "r"(accumulate));
#endif

template <int kN>
inline constexpr bool kWgmmaColumns =
    kN == 16 || kN == 32 || kN == 64 || kN == 128 || kN == 192 || kN == 256;

// d (+)= a b, bf16, k = 16; both descriptors' operands in shared memory, A K-major, B K-major or,
// transposed, MN-major. accumulate = 0: d's old values do not count.
template <int kN, bool kTransposedB = false>
__device__ __forceinline__ void WgmmaBf16(float (&d)[kN / 2], uint64_t a, uint64_t b,
                                          int accumulate) {
  static_assert(kWgmmaColumns<kN>);
#if defined(TANDEM_SM90A)
  TANDEM_EACH_N(TANDEM_WGMMA_BF16)
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::WgmmaIssue({kN, false, kTransposedB}, d, nullptr, a, b, accumulate != 0);
#endif
}

// The same with A in registers.
template <int kN, bool kTransposedB = false>
__device__ __forceinline__ void WgmmaBf16(float (&d)[kN / 2], const uint32_t (&a)[4], uint64_t b,
                                          int accumulate) {
  static_assert(kWgmmaColumns<kN>);
#if defined(TANDEM_SM90A)
  TANDEM_EACH_N(TANDEM_WGMMA_BF16_REGISTERS)
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::WgmmaIssue({kN, false, kTransposedB}, d, a, 0, b, accumulate != 0);
#endif
}

// e4m3, k = 32, both K-major.
template <int kN>
__device__ __forceinline__ void WgmmaE4m3(float (&d)[kN / 2], uint64_t a, uint64_t b,
                                          int accumulate) {
  static_assert(kWgmmaColumns<kN>);
#if defined(TANDEM_SM90A)
  TANDEM_EACH_N(TANDEM_WGMMA_E4M3)
#elif defined(__CUDACC__)
  __trap();
#else
  emulator::WgmmaIssue({kN, true, false}, d, nullptr, a, b, accumulate != 0);
#endif
}

#if defined(TANDEM_SM90A)
#undef TANDEM_D4
#undef TANDEM_D8
#undef TANDEM_D16
#undef TANDEM_D32
#undef TANDEM_D64
#undef TANDEM_N10
#undef TANDEM_TEXT8
#undef TANDEM_TEXT16
#undef TANDEM_TEXT32
#undef TANDEM_TEXT64
#undef TANDEM_TEXT96
#undef TANDEM_TEXT128
#undef TANDEM_EACH_N
#undef TANDEM_WGMMA_BF16
#undef TANDEM_WGMMA_BF16_REGISTERS
#undef TANDEM_WGMMA_E4M3
#endif

}  // namespace tandem::gpu_worker::cuda
