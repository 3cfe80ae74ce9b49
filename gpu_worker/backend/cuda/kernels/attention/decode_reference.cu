// The oracle on the device: softmax attention of one row and head by one thread block, in plain f32
// loops. The running maximum moves page by page, as in the fast kernels; every sum runs in the
// order of tokens, and every dot product in the order of dimensions.
#include <cmath>

#include "gpu_worker/backend/cuda/kernels/attention/decode_kernels.h"
#include "gpu_worker/backend/cuda/kernels/attention/reference_softmax.h"
#include "gpu_worker/backend/cuda/simt/launch.h"

namespace tandem::gpu_worker::cuda {
namespace {

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
  float* const scores = mean + p.latent;                     // [kReferenceTokens]
  const int64_t pair = blockIdx.x;
  const int64_t row = pair / p.heads;
  const int thread = static_cast<int>(threadIdx.x);
  for (int c = thread; c < p.key; c += kReferenceThreads) {
    q[c] = ToF32(static_cast<const T*>(p.q)[pair * p.key + c]);
  }
  for (int c = thread; c < p.latent; c += kReferenceThreads) mean[c] = 0.0f;
  RunningSoftmax softmax{.mean = mean, .columns = p.latent};
  const int length = p.lengths[row];
  for (int begin = 0; begin < length; begin += kReferenceTokens) {
    const int tokens = length - begin < kReferenceTokens ? length - begin : kReferenceTokens;
    const int64_t page = p.page_table[row * p.page_table_stride + begin / kReferenceTokens];
    const T* const keys = static_cast<const T*>(p.cache) + page * kReferenceTokens * p.key;
    __syncthreads();  // q is there; the scores of the page before are done with
    Scores(p, keys, tokens, q, scores);
    __syncthreads();
    softmax.AddPage(scores, tokens, keys, p.key);
  }
  for (int c = thread; c < p.latent; c += kReferenceThreads) {
    StoreAs(length == 0 ? 0.0f : mean[c] / softmax.sum,
            static_cast<T*>(p.out) + pair * p.latent + c);
  }
  if (p.lse != nullptr && thread == 0) {
    p.lse[pair] = length == 0 ? -INFINITY : softmax.max + logf(softmax.sum);
  }
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
  const size_t shared_bytes = (s.key() + s.latent + kReferenceTokens) * sizeof(float);
  const auto kernel =
      args.storage == Storage::kF32 ? ReferenceDecodeKernel<float> : ReferenceDecodeKernel<Bf16>;
  Launch(kernel, blocks, kReferenceThreads, shared_bytes, stream, p);
}

}  // namespace tandem::gpu_worker::cuda
