// The latents of a piece of a sequence, gathered from its pages, and the oracle on the device for
// prefill: softmax attention of one row and head by one thread block, in plain f32 loops over
// rebuilt keys and values. The running maximum moves page by page, as in the fast kernels; every
// sum runs in the order of tokens, and every dot product in the order of dimensions.
#include <algorithm>
#include <cmath>

#include "gpu_worker/backend/cuda/kernels/attention/prefill_kernels.h"
#include "gpu_worker/backend/cuda/kernels/attention/reference_softmax.h"
#include "gpu_worker/backend/cuda/simt/launch.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int kGatherThreads = 128;

// One thread block a token. T: a word that rows are whole multiples of.
template <typename T>
__global__ void __launch_bounds__(kGatherThreads)
    PrefillGatherKernel(const T* cache, const int32_t* pages, int64_t begin, int64_t end,
                        int row_words, T* latents) {
  const int64_t place = blockIdx.x;
  const int64_t position = begin + place;
  T* const to = latents + place * row_words;
  if (position >= end) {
    for (int i = static_cast<int>(threadIdx.x); i < row_words; i += kGatherThreads) to[i] = T{};
    return;
  }
  const int64_t slot =
      int64_t{pages[position / kPageTokens]} * kPageTokens + position % kPageTokens;
  const T* const from = cache + slot * row_words;
  for (int i = static_cast<int>(threadIdx.x); i < row_words; i += kGatherThreads) to[i] = from[i];
}

struct ReferenceParameters {
  const void* q;
  const void* latents;
  const void* keys;
  const void* values;
  float* means;
  float* maxima;
  float* sums;
  void* out;
  int64_t rows, start_position, begin, tokens;
  int heads_all, head_begin;
  int nope, rope, latent, v;
  float softmax_scale;
};

// q . key of the tokens [first, first + count) of the piece; one thread a token.
template <typename T>
__device__ void PrefillScores(const ReferenceParameters& p, int64_t head, int64_t first, int count,
                              const float* q, float* scores) {
  const int j = static_cast<int>(threadIdx.x);
  if (j >= count) return;
  const T* const key = static_cast<const T*>(p.keys) + (head * p.tokens + first + j) * p.nope;
  const T* const rope =
      static_cast<const T*>(p.latents) + (first + j) * (p.latent + p.rope) + p.latent;
  float sum = 0.0f;
  for (int c = 0; c < p.nope; ++c) sum += q[c] * ToF32(key[c]);
  for (int c = 0; c < p.rope; ++c) sum += q[p.nope + c] * ToF32(rope[c]);
  scores[j] = sum * p.softmax_scale;
}

template <typename T>
__global__ void __launch_bounds__(kReferenceThreads, 1)
    ReferencePrefillKernel(ReferenceParameters p) {
  auto* const q = reinterpret_cast<float*>(SharedMemory());  // [nope + rope]
  float* const mean = q + p.nope + p.rope;                   // [v], not yet divided
  float* const scores = mean + p.v;                          // [kReferenceTokens]
  const int64_t row = blockIdx.x, head = blockIdx.y;
  const int64_t position = p.start_position + row;
  if (position < p.begin) return;  // done in a piece before this one
  const int thread = static_cast<int>(threadIdx.x);
  const int64_t pair = row * p.heads_all + p.head_begin + head;  // of q and out
  const int64_t state = head * p.rows + row;
  for (int c = thread; c < p.nope + p.rope; c += kReferenceThreads) {
    q[c] = ToF32(static_cast<const T*>(p.q)[pair * (p.nope + p.rope) + c]);
  }
  const bool first_piece = p.begin == 0;
  for (int c = thread; c < p.v; c += kReferenceThreads) {
    mean[c] = first_piece ? 0.0f : p.means[state * p.v + c];
  }
  RunningSoftmax softmax{.mean = mean, .columns = p.v};
  if (!first_piece) {
    softmax.max = p.maxima[state];
    softmax.sum = p.sums[state * kPrefillSums];
  }
  const int64_t seen = position + 1 - p.begin;
  const int64_t end = seen < p.tokens ? seen : p.tokens;
  for (int64_t first = 0; first < end; first += kReferenceTokens) {
    const int count =
        end - first < kReferenceTokens ? static_cast<int>(end - first) : kReferenceTokens;
    __syncthreads();  // q is there; the scores of the page before are done with
    PrefillScores<T>(p, head, first, count, q, scores);
    __syncthreads();
    const T* const values = static_cast<const T*>(p.values) + (head * p.tokens + first) * p.v;
    softmax.AddPage(scores, count, values, p.v);
  }
  const bool last_piece = position < p.begin + p.tokens;
  for (int c = thread; c < p.v; c += kReferenceThreads) {
    if (last_piece) {
      StoreAs(mean[c] / softmax.sum, static_cast<T*>(p.out) + pair * p.v + c);
    } else {
      p.means[state * p.v + c] = mean[c];
    }
  }
  if (!last_piece && thread == 0) {
    p.maxima[state] = softmax.max;
    p.sums[state * kPrefillSums] = softmax.sum;
  }
}

template <typename T>
void Gather(const MlaPrefillArgs& args, int64_t begin, int64_t tokens, int64_t end, void* latents,
            Stream stream) {
  const auto row_words = static_cast<int>(args.shape.key() * BytesOf(args.storage) / sizeof(T));
  Launch(PrefillGatherKernel<T>, static_cast<unsigned>(tokens), kGatherThreads, 0, stream,
         static_cast<const T*>(args.cache), args.pages, begin, end, row_words,
         static_cast<T*>(latents));
}

}  // namespace

void GatherLatents(const MlaPrefillArgs& args, int64_t begin, int64_t tokens, int64_t end,
                   void* latents, Stream stream) {
  const int64_t row_bytes = args.shape.key() * BytesOf(args.storage);
  if (row_bytes % sizeof(uint64_t) == 0) {
    Gather<uint64_t>(args, begin, tokens, end, latents, stream);
  } else {
    Gather<uint16_t>(args, begin, tokens, end, latents, stream);
  }
}

void ReferencePrefillPiece(const PrefillPiece& piece, Stream stream) {
  const MlaPrefillArgs& args = *piece.args;
  const MlaShape& s = args.shape;
  const ReferenceParameters p{args.q,
                              piece.latents,
                              piece.keys,
                              piece.values,
                              piece.means,
                              piece.maxima,
                              piece.sums,
                              args.out,
                              args.rows,
                              args.start_position,
                              piece.begin,
                              piece.tokens,
                              static_cast<int>(s.heads),
                              static_cast<int>(piece.head_begin),
                              static_cast<int>(s.nope),
                              static_cast<int>(s.rope),
                              static_cast<int>(s.latent),
                              static_cast<int>(s.v),
                              s.softmax_scale};
  const dim3 grid(static_cast<unsigned>(args.rows), static_cast<unsigned>(piece.heads));
  const size_t shared_bytes = (s.nope + s.rope + s.v + kReferenceTokens) * sizeof(float);
  const auto kernel =
      args.storage == Storage::kF32 ? ReferencePrefillKernel<float> : ReferencePrefillKernel<Bf16>;
  Launch(kernel, grid, kReferenceThreads, shared_bytes, stream, p);
}

}  // namespace tandem::gpu_worker::cuda
