// The oracle on the device: softmax attention of one row and head by one thread block, in plain f32
// loops. The running maximum moves page by page, as in the fast kernels; every sum runs in the
// order of tokens, and every dot product in the order of dimensions.
#include <cmath>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/kernels/attention/decode_kernels.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int kReferenceThreads = 128;
constexpr int kTokens = static_cast<int>(kPageTokens);
static_assert(kReferenceThreads >= kTokens);

__device__ float ToF32(float value) { return value; }
__device__ float ToF32(Bf16 value) { return FromBf16(value); }
__device__ void StoreAs(float value, float* to) { *to = value; }
__device__ void StoreAs(float value, Bf16* to) { *to = ToBf16(value); }

struct ReferenceParameters {
  const void* q;
  const void* cache;
  const int32_t* page_table;
  int64_t page_table_stride;
  const int32_t* lengths;
  int heads, latent, key;
  float softmax_scale;
  void* out;
  float* lse;
};

// q . key of each of the first `tokens` tokens of a page; one thread a token.
template <typename T>
__device__ void Scores(const ReferenceParameters& p, const T* keys, int tokens, const float* q,
                       float* scores) {
  for (int j = static_cast<int>(threadIdx.x); j < tokens; j += kReferenceThreads) {
    float sum = 0.0f;
    for (int c = 0; c < p.key; ++c) sum += q[c] * ToF32(keys[int64_t{j} * p.key + c]);
    scores[j] = sum * p.softmax_scale;
  }
}

template <typename T>
__global__ void __launch_bounds__(kReferenceThreads) ReferenceDecodeKernel(ReferenceParameters p) {
  auto* const q = reinterpret_cast<float*>(SharedMemory());  // [key]
  float* const mean = q + p.key;                             // [latent], not yet divided
  float* const scores = mean + p.latent;                     // [kTokens]
  const int64_t pair = blockIdx.x;
  const int64_t row = pair / p.heads;
  const int thread = static_cast<int>(threadIdx.x);
  for (int c = thread; c < p.key; c += kReferenceThreads) {
    q[c] = ToF32(static_cast<const T*>(p.q)[pair * p.key + c]);
  }
  for (int c = thread; c < p.latent; c += kReferenceThreads) mean[c] = 0.0f;
  float max = -INFINITY, sum = 0.0f;
  const int length = p.lengths[row];
  for (int begin = 0; begin < length; begin += kTokens) {
    const int tokens = length - begin < kTokens ? length - begin : kTokens;
    const int64_t page = p.page_table[row * p.page_table_stride + begin / kTokens];
    const T* const keys = static_cast<const T*>(p.cache) + page * kTokens * p.key;
    __syncthreads();  // q is there; the scores of the page before are done with
    Scores(p, keys, tokens, q, scores);
    __syncthreads();
    float new_max = max;
    for (int j = 0; j < tokens; ++j) new_max = scores[j] > new_max ? scores[j] : new_max;
    __syncthreads();
    if (thread < tokens) scores[thread] = expf(scores[thread] - new_max);
    __syncthreads();
    const float keep = expf(max - new_max);
    sum *= keep;
    for (int j = 0; j < tokens; ++j) sum += scores[j];
    for (int c = thread; c < p.latent; c += kReferenceThreads) {
      float value = mean[c] * keep;
      for (int j = 0; j < tokens; ++j) {
        value += scores[j] * ToF32(keys[int64_t{j} * p.key + c]);
      }
      mean[c] = value;
    }
    max = new_max;
  }
  for (int c = thread; c < p.latent; c += kReferenceThreads) {
    StoreAs(length == 0 ? 0.0f : mean[c] / sum, static_cast<T*>(p.out) + pair * p.latent + c);
  }
  if (p.lse != nullptr && thread == 0) p.lse[pair] = length == 0 ? -INFINITY : max + logf(sum);
}

}  // namespace

void ReferenceMlaDecode(const MlaDecodeArgs& args, Stream stream) {
  const MlaShape& s = args.shape;
  const ReferenceParameters p{args.q,
                              args.cache,
                              args.page_table,
                              args.page_table_stride,
                              args.lengths,
                              static_cast<int>(s.heads),
                              static_cast<int>(s.latent),
                              static_cast<int>(s.key()),
                              s.softmax_scale,
                              args.out,
                              args.lse};
  const auto blocks = static_cast<unsigned>(args.rows * s.heads);
  const size_t shared_bytes = (s.key() + s.latent + kTokens) * sizeof(float);
  const auto kernel =
      args.storage == Storage::kF32 ? ReferenceDecodeKernel<float> : ReferenceDecodeKernel<Bf16>;
  Launch(kernel, blocks, kReferenceThreads, shared_bytes, stream, p);
}

}  // namespace tandem::gpu_worker::cuda
