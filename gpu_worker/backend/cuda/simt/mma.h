// Tensor-core products of a warp and the loads that feed them (PTX ISA, "Matrix fragments for
// mma.m16n8k16" and "ldmatrix"). Fragments, with lane = 4 g + t:
//   A [16, 16] bf16, 4 words: a[0] row g, k 2t and 2t+1; a[1] row g+8; a[2] row g, k 2t+8 and +9;
//     a[3] row g+8, the same
//   B [16 k, 8 n] bf16, 2 words: b[0] k 2t and 2t+1 of column g; b[1] k 2t+8 and 2t+9
//   D [16, 8] f32: d[0], d[1] row g, columns 2t and 2t+1; d[2], d[3] row g+8
//   A [16, 16 or 32] bytes, 2 or 4 words: a[0] row g, k 4t to 4t+3; a[1] row g+8; a[2], a[3] the
//     same, k from 16 on
//   B [16 or 32 k, 8 n] bytes, 1 or 2 words: b[0] k 4t to 4t+3 of column g; b[1] k from 16 on
#pragma once

#include "gpu_worker/backend/cuda/simt/simt.h"

namespace tandem::gpu_worker::cuda {

#if !defined(__CUDACC__)
namespace emulator {
void MmaBf16(float* d, const uint32_t* a, const uint32_t* b);
void MmaU8S8(int32_t* d, const uint32_t* a, const uint32_t* b, int depth);
void LoadMatrix(uint32_t* registers, int matrices, bool transposed, const void* row);
}  // namespace emulator
#endif

// d += a b, all 32 lanes together.
__device__ __forceinline__ void MmaBf16(float (&d)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2]) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emulator::MmaBf16(d, a, b);
#endif
}

// d += a b, exactly: A unsigned, B signed bytes, k 32 deep, or 16.
__device__ __forceinline__ void MmaU8S8(int32_t (&d)[4], const uint32_t (&a)[4],
                                        const uint32_t (&b)[2]) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k32.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#else
  emulator::MmaU8S8(d, a, b, 32);
#endif
}
__device__ __forceinline__ void MmaU8S8(int32_t (&d)[4], const uint32_t (&a)[2], uint32_t b) {
#if defined(__CUDACC__)
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.s32.u8.s8.s32 {%0,%1,%2,%3}, {%4,%5}, {%6}, "
      "{%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(b));
#else
  emulator::MmaU8S8(d, a, &b, 16);
#endif
}

// Matrices of 8 rows of 16 bytes in shared memory. Lane l names row l % 8 of matrix l / 8; register
// m of lane 4 g + t receives bytes 4t to 4t+3 of row g of matrix m; transposed, elements (2 bytes)
// 2t and 2t+1 of column g.
template <int kMatrices, bool kTransposed = false>
__device__ __forceinline__ void LoadMatrix(uint32_t (&r)[kMatrices], const void* row) {
  static_assert(kMatrices == 1 || kMatrices == 2 || kMatrices == 4);
#if defined(__CUDACC__)
  const uint32_t address = SharedAddress(row);
  if constexpr (kMatrices == 4 && !kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kMatrices == 4) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kMatrices == 2 && !kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
  } else if constexpr (kMatrices == 2) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0,%1}, [%2];"
                 : "=r"(r[0]), "=r"(r[1])
                 : "r"(address)
                 : "memory");
  } else if constexpr (!kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(address)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
                 : "=r"(r[0])
                 : "r"(address)
                 : "memory");
  }
#else
  emulator::LoadMatrix(r, kMatrices, kTransposed, row);
#endif
}

}  // namespace tandem::gpu_worker::cuda
