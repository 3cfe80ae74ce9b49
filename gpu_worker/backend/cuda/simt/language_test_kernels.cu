#include "gpu_worker/backend/cuda/simt/async_copy.h"
#include "gpu_worker/backend/cuda/simt/language_test_kernels.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "gpu_worker/backend/cuda/simt/mma.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"
#include "gpu_worker/backend/cuda/simt/vector_access.h"

namespace tandem::gpu_worker::cuda::language_test {
namespace {

constexpr int kThreads = 256;

__global__ void BlockSumsKernel(const float* in, float* sums) {
  float* scratch = reinterpret_cast<float*>(SharedMemory());
  const float sum = BlockSum(in[blockIdx.x * kThreads + threadIdx.x], scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

template <bool kTransposed>
__global__ void OneMmaKernel(const uint16_t* a, const uint16_t* b, float* d) {
  uint16_t* const shared_a = reinterpret_cast<uint16_t*>(SharedMemory());  // [16, 16]
  uint16_t* const shared_b = shared_a + 256;                               // [8, 16] or [16, 8]
  for (int i = LaneId(); i < 256; i += kWarpThreads) shared_a[i] = a[i];
  for (int i = LaneId(); i < 128; i += kWarpThreads) shared_b[i] = b[i];
  __syncthreads();
  const int lane = LaneId();
  uint32_t left[4], right[2];
  LoadMatrix<4>(left, shared_a + lane % 16 * 16 + lane / 16 * 8);
  if constexpr (kTransposed) {
    LoadMatrix<2, true>(right, shared_b + lane % 16 * 8);
  } else {
    LoadMatrix<2>(right, shared_b + lane % 8 * 16 + lane / 8 % 2 * 8);
  }
  float sum[4] = {0, 0, 0, 0};
  MmaBf16(sum, left, right);
  const int g = lane / 4, t = lane % 4;
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];
}

__global__ void OneIntegerMmaKernel(const uint8_t* a, const int8_t* b, int depth, int32_t* d) {
  const int g = LaneId() / 4, t = LaneId() % 4;
  const auto word = [](const void* bytes, int at) {
    uint32_t result = 0;
    for (int i = 0; i < 4; ++i) {
      result |= static_cast<uint32_t>(static_cast<const uint8_t*>(bytes)[at + i]) << (8 * i);
    }
    return result;
  };
  int32_t sum[4] = {0, 0, 0, 0};
  const uint32_t low[2] = {word(a, g * depth + 4 * t), word(a, (g + 8) * depth + 4 * t)};
  const uint32_t right = word(b, g * depth + 4 * t);
  if (depth == 32) {
    const uint32_t left[4] = {low[0], low[1], word(a, g * 32 + 16 + 4 * t),
                              word(a, (g + 8) * 32 + 16 + 4 * t)};
    const uint32_t both[2] = {right, word(b, g * 32 + 16 + 4 * t)};
    MmaU8S8(sum, left, both);
  } else {
    MmaU8S8(sum, low, right);
  }
  for (int i = 0; i < 4; ++i) d[(g + i / 2 * 8) * 8 + 2 * t + i % 2] = sum[i];
}

__global__ void FlushesKernel(const float* a, const float* b, const float* c, float* fused,
                              float* sum) {
  const int i = static_cast<int>(threadIdx.x);
  fused[i] = FmaFtz(a[i], b[i], c[i]);
  sum[i] = AddFtz(a[i], c[i]);
}

__global__ void F16CodesKernel(float* out) {
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  out[i] = FromF16(static_cast<uint16_t>(i));
}

__global__ void CopyKernel(const float* in, float* out, int count, int valid_count) {
  float* const shared = reinterpret_cast<float*>(SharedMemory());
  const int begin = 4 * static_cast<int>(threadIdx.x);
  const bool valid = begin < valid_count;
  if (begin < count && threadIdx.x % 2 == 0) CopyAsync16(shared + begin, in + begin, valid);
  if (begin < count && threadIdx.x % 2 == 1) {
    for (int i = 0; i < 4; ++i) CopyAsync4(shared + begin + i, in + begin + i, valid);
  }
  CommitAsyncCopies();
  WaitAsyncCopies<0>();
  __syncthreads();
  const int mirror = count - 1 - static_cast<int>(threadIdx.x);
  for (int i = mirror; i >= 0; i -= static_cast<int>(blockDim.x)) out[i] = shared[i];
}

__global__ void E4m3CodesKernel(float* values, uint8_t* back) {
  const auto code = static_cast<uint8_t>(threadIdx.x);
  values[code] = FromE4m3(code);
  back[code] = ToE4m3(FromE4m3(code));
}

__global__ void ToE4m3Kernel(const float* in, uint8_t* out, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) out[i] = ToE4m3(in[i]);
}

__global__ void ToBf16Kernel(const float* in, uint16_t* out, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) out[i] = ToBf16(in[i]);
}

__global__ void FmaBf16x2Kernel(const uint32_t* a, const uint32_t* b, const uint32_t* c,
                                uint32_t* out, int count) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i < count) out[i] = FmaBf16x2(a[i], b[i], c[i]);
}

__global__ void ShufflesKernel(int* up, int* down, int* exclusive_or, int* first, uint32_t* odd) {
  const int lane = LaneId();
  up[lane] = __shfl_up_sync(kFullWarp, lane, 3);
  down[lane] = __shfl_down_sync(kFullWarp, lane, 5);
  exclusive_or[lane] = __shfl_xor_sync(kFullWarp, lane, 9);
  first[lane] = __shfl_sync(kFullWarp, lane, 2, 8);
  odd[lane] = __ballot_sync(kFullWarp, lane % 2 == 1);
}

__global__ void ReducesKernel(const uint32_t* in, uint32_t* largest, uint32_t* smallest) {
  const int lane = LaneId();
  largest[lane] = __reduce_max_sync(kFullWarp, in[lane]);
  smallest[lane] = __reduce_min_sync(kFullWarp, in[lane]);
}

__global__ void AtomicSumsKernel(const uint32_t* in, unsigned* narrow, int* signed_narrow,
                                 unsigned long long* wide) {
  const uint32_t value = in[threadIdx.x];
  atomicAdd(narrow, value);
  atomicAdd(signed_narrow, -static_cast<int>(value));
  atomicAdd(wide, static_cast<unsigned long long>(value) * value);
}

__global__ void UnfusedKernel(const float* a, const float* b, const float* c, float* plus,
                              float* minus) {
  const int i = static_cast<int>(threadIdx.x);
  plus[i] = __fadd_rn(__fmul_rn(a[i], b[i]), c[i]);
  minus[i] = __fsub_rn(__fmul_rn(a[i], b[i]), c[i]);
}

__global__ void Vectors16Kernel(const uint32_t* in, uint32_t* out, uint32_t* halves) {
  const int i = static_cast<int>(threadIdx.x);
  Words4 words = Load16(in + 4 * i);
  Store8(halves + 2 * i, words.w[2], words.w[3]);
  for (uint32_t& word : words.w) word += 1;
  Store16(out + 4 * i, words);
}

unsigned BlocksFor(int count) { return static_cast<unsigned>((count + kThreads - 1) / kThreads); }

}  // namespace

void BlockSums(const float* in, float* sums, int blocks, Stream stream) {
  Launch(BlockSumsKernel, static_cast<unsigned>(blocks), kThreads, kThreads / 32 * sizeof(float),
         stream, in, sums);
}
void OneMma(const uint16_t* a, const uint16_t* b, float* d, Stream stream) {
  Launch(OneMmaKernel<false>, 1, 32, 384 * sizeof(uint16_t), stream, a, b, d);
}
void OneMmaTransposed(const uint16_t* a, const uint16_t* b_kn, float* d, Stream stream) {
  Launch(OneMmaKernel<true>, 1, 32, 384 * sizeof(uint16_t), stream, a, b_kn, d);
}
void OneIntegerMma(const uint8_t* a, const int8_t* b, int depth, int32_t* d, Stream stream) {
  Launch(OneIntegerMmaKernel, 1, 32, 0, stream, a, b, depth, d);
}
void Flushes(const float* a, const float* b, const float* c, float* fused, float* sum, int count,
             Stream stream) {
  Launch(FlushesKernel, 1, static_cast<unsigned>(count), 0, stream, a, b, c, fused, sum);
}
void F16Codes(float* out, Stream stream) { Launch(F16CodesKernel, 256, 256, 0, stream, out); }
void CopyThroughShared(const float* in, float* out, int count, int valid_count, Stream stream) {
  Launch(CopyKernel, 1, static_cast<unsigned>((count / 4 + 31) / 32 * 32), count * sizeof(float),
         stream, in, out, count, valid_count);
}
void E4m3Codes(float* values, uint8_t* back, Stream stream) {
  Launch(E4m3CodesKernel, 1, 256, 0, stream, values, back);
}
void ToE4m3All(const float* in, uint8_t* out, int count, Stream stream) {
  Launch(ToE4m3Kernel, BlocksFor(count), kThreads, 0, stream, in, out, count);
}
void ToBf16All(const float* in, uint16_t* out, int count, Stream stream) {
  Launch(ToBf16Kernel, BlocksFor(count), kThreads, 0, stream, in, out, count);
}
void FmaBf16x2All(const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* out, int count,
                  Stream stream) {
  Launch(FmaBf16x2Kernel, BlocksFor(count), kThreads, 0, stream, a, b, c, out, count);
}
void Shuffles(int* up, int* down, int* exclusive_or, int* first, uint32_t* odd, Stream stream) {
  Launch(ShufflesKernel, 1, 32, 0, stream, up, down, exclusive_or, first, odd);
}

void Reduces(const uint32_t* in, uint32_t* largest, uint32_t* smallest, Stream stream) {
  Launch(ReducesKernel, 1, 32, 0, stream, in, largest, smallest);
}
void AtomicSums(const uint32_t* in, int count, unsigned* narrow, int* signed_narrow,
                unsigned long long* wide, Stream stream) {
  Launch(AtomicSumsKernel, 1, count, 0, stream, in, narrow, signed_narrow, wide);
}

void Unfused(const float* a, const float* b, const float* c, float* plus, float* minus, int count,
             Stream stream) {
  Launch(UnfusedKernel, 1, static_cast<unsigned>(count), 0, stream, a, b, c, plus, minus);
}
void Vectors16(const uint32_t* in, uint32_t* out, uint32_t* halves, int count, Stream stream) {
  Launch(Vectors16Kernel, 1, static_cast<unsigned>(count), 0, stream, in, out, halves);
}

}  // namespace tandem::gpu_worker::cuda::language_test
