// Small kernels that use each word of simt.h, mma.h, async_copy.h and numbers.h once, to hold the
// emulator and the GPU to the same meaning.
#pragma once

#include <cstdint>

#include "gpu_worker/backend/cuda/device/device.h"

namespace tandem::gpu_worker::cuda::language_test {

// sums[b] = sum of in[b * 256 .. + 256); every thread adds through the block.
void BlockSums(const float* in, float* sums, int blocks, Stream stream);
// d [16, 8] f32 = a [16, 16] b [8, 16]^T, bf16, by ldmatrix and one mma a warp.
void OneMma(const uint16_t* a, const uint16_t* b, float* d, Stream stream);
// The same with B given as [16 k, 8 n], read by a transposing ldmatrix.
void OneMmaTransposed(const uint16_t* a, const uint16_t* b_kn, float* d, Stream stream);
// d [16, 8] int32 = a [16, depth] unsigned times b [8, depth]^T signed bytes; depth 16 or 32.
void OneIntegerMma(const uint8_t* a, const int8_t* b, int depth, int32_t* d, Stream stream);
// Products and sums without subnormal numbers; count threads.
void Flushes(const float* a, const float* b, const float* c, float* fused, float* sum, int count,
             Stream stream);
// Every f16 code's value; out [65536].
void F16Codes(float* out, Stream stream);
// out[i] = in[i] for count (a multiple of 4) floats by cp.async, pieces behind valid_count zero.
void CopyThroughShared(const float* in, float* out, int count, int valid_count, Stream stream);
// Every e4m3 code and back; out [256] f32 and back [256].
void E4m3Codes(float* values, uint8_t* back, Stream stream);
void ToE4m3All(const float* in, uint8_t* out, int count, Stream stream);
void ToBf16All(const float* in, uint16_t* out, int count, Stream stream);
// out[i] = a[i] b[i] + c[i], two bf16 a word.
void FmaBf16x2All(const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* out, int count,
                  Stream stream);
// out[lane] = shuffles of lane numbers and a ballot of odd lanes.
void Shuffles(int* up, int* down, int* exclusive_or, int* first, uint32_t* odd, Stream stream);
// largest[lane] and smallest[lane]: of in [32], every lane the same.
void Reduces(const uint32_t* in, uint32_t* largest, uint32_t* smallest, Stream stream);
// narrow, signed_narrow and wide += in[i], count threads, all at once; wide by its square.
void AtomicSums(const uint32_t* in, int count, unsigned* narrow, int* signed_narrow,
                unsigned long long* wide, Stream stream);
// a b + c and a b - c, the product rounded first; count threads.
void Unfused(const float* a, const float* b, const float* c, float* plus, float* minus, int count,
             Stream stream);
// out [4 count] = in + 1 by words of 16 bytes; halves [2 count]: the last 8 of each.
void Vectors16(const uint32_t* in, uint32_t* out, uint32_t* halves, int count, Stream stream);

}  // namespace tandem::gpu_worker::cuda::language_test
