// The best logits of each row in two passes: every block finds the best of 4096 logits, then one
// block a row finds the best of those. Keys are unique (value, then lower id), so that the result
// does not depend on the order in which threads find it.
#include "gpu_worker/backend/cuda/kernels/rows/order.h"
#include "gpu_worker/backend/cuda/kernels/rows/rows.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

// Few threads with many logits each: every thread compares its best with every other's.
constexpr int kThreads = 128;
constexpr int kPerThread = 32;
constexpr int kChunk = kThreads * kPerThread;
// Only the k threads with the best maxima have anything among the k best.
constexpr int kCandidatesMax = kTopLogitsMax * kPerThread;

using Key = uint64_t;  // OrderOf the value, then ~id; 0: none

struct Search {  // in shared memory
  Key maxima[kThreads];
  Key candidates[kCandidatesMax];
  Key threshold;
  int candidates_count;
  uint32_t lowest[kThreads / kWarpThreads];
};

__device__ __forceinline__ Key KeyOf(float value, int64_t id) {
  return static_cast<Key>(OrderOf(value)) << 32 | static_cast<uint32_t>(~id);
}

// out [k] = the k largest of the block's keys, descending, padded with 0. key_of(i), i below
// kPerThread: the thread's keys, of which `mine` is the largest.
template <typename KeyOfPlace>
__device__ __forceinline__ void BestOfBlock(KeyOfPlace key_of, Key mine, int k, Search& search,
                                            Key* out) {
  const int thread = static_cast<int>(threadIdx.x);
  search.maxima[thread] = mine;
  if (thread == 0) {
    search.threshold = 1;  // where fewer than k threads have keys, all keys are candidates
    search.candidates_count = 0;
  }
  __syncthreads();
  int better = 0;
#pragma unroll 8
  for (int t = 0; t < kThreads; ++t) better += search.maxima[t] > mine ? 1 : 0;
  if (mine != 0 && better == k - 1) search.threshold = mine;
  __syncthreads();
  const Key threshold = search.threshold;
  if (mine >= threshold) {
#pragma unroll
    for (int i = 0; i < kPerThread; ++i) {
      const Key key = key_of(i);
      if (key >= threshold) search.candidates[atomicAdd(&search.candidates_count, 1)] = key;
    }
  }
  __syncthreads();
  const int count = search.candidates_count;
  for (int c = thread; c < count; c += kThreads) {
    const Key key = search.candidates[c];
    int rank = 0;
    for (int j = 0; j < count; ++j) rank += search.candidates[j] > key ? 1 : 0;
    if (rank < k) out[rank] = key;
  }
  for (int rank = count + thread; rank < k; rank += kThreads) out[rank] = 0;
}

__device__ __forceinline__ bool IsFinite(float value) {
  return (__float_as_uint(value) & 0x7f800000u) != 0x7f800000u;
}

// keys [rows, chunks, k], not_finite [rows, chunks]: the lowest id of a logit that is not finite.
__global__ void __launch_bounds__(kThreads)
    TopOfChunkKernel(const float* logits, int64_t vocab, int k, Key* keys_out,
                     uint32_t* not_finite) {
  Search& search = *reinterpret_cast<Search*>(SharedMemory());
  const int64_t row = blockIdx.x, chunk = blockIdx.y, chunks = gridDim.y;
  float values[kPerThread];
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int64_t id = chunk * kChunk + i * kThreads + threadIdx.x;
    values[i] = id < vocab ? logits[row * vocab + id] : 0.0f;
  }
  const auto key_of = [&](int i) {
    const int64_t id = chunk * kChunk + i * kThreads + threadIdx.x;
    return id < vocab ? KeyOf(values[i], id) : 0;
  };
  Key mine = 0;
  uint32_t lowest = kNoRow;
#pragma unroll
  for (int i = kPerThread - 1; i >= 0; --i) {
    const Key key = key_of(i);
    mine = key > mine ? key : mine;
    if (!IsFinite(values[i])) {
      lowest = static_cast<uint32_t>(chunk * kChunk + i * kThreads + threadIdx.x);
    }
  }
  lowest = __reduce_min_sync(kFullWarp, lowest);
  if (LaneId() == 0) search.lowest[WarpId()] = lowest;
  BestOfBlock(key_of, mine, k, search, keys_out + (row * chunks + chunk) * k);
  if (threadIdx.x != 0) return;
  for (int w = 0; w < kThreads / kWarpThreads; ++w) {
    lowest = search.lowest[w] < lowest ? search.lowest[w] : lowest;
  }
  not_finite[row * chunks + chunk] = lowest;
}

__global__ void __launch_bounds__(kThreads)
    TopOfRowKernel(const float* logits, int64_t vocab, int k, int chunks, const Key* keys_in,
                   const uint32_t* chunks_not_finite, float* values, uint32_t* ids,
                   uint32_t* not_finite) {
  Search& search = *reinterpret_cast<Search*>(SharedMemory());
  Key* const best = reinterpret_cast<Key*>(SharedMemory() + sizeof(Search));  // [k]
  const int64_t row = blockIdx.x;
  Key keys[kPerThread], mine = 0;
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) {
    const int place = i * kThreads + static_cast<int>(threadIdx.x);
    keys[i] = place < chunks * k ? keys_in[row * chunks * k + place] : 0;
  }
#pragma unroll
  for (int i = 0; i < kPerThread; ++i) mine = keys[i] > mine ? keys[i] : mine;
  BestOfBlock([&](int i) { return keys[i]; }, mine, k, search, best);
  __syncthreads();
  for (int rank = static_cast<int>(threadIdx.x); rank < k; rank += kThreads) {
    const uint32_t id = ~static_cast<uint32_t>(best[rank]);
    ids[row * k + rank] = id;
    values[row * k + rank] = logits[row * vocab + id];
  }
  if (threadIdx.x != 0) return;
  uint32_t lowest = kNoRow;
  for (int c = 0; c < chunks; ++c) {
    const uint32_t of_chunk = chunks_not_finite[row * chunks + c];
    lowest = of_chunk < lowest ? of_chunk : lowest;
  }
  not_finite[row] = lowest;
}

int64_t ChunksOf(int64_t vocab) { return (vocab + kChunk - 1) / kChunk; }

}  // namespace

size_t TopLogitsWorkspaceBytes(int64_t rows, int64_t vocab, int64_t k) {
  return rows * ChunksOf(vocab) * (k * sizeof(Key) + sizeof(uint32_t));
}

void TopLogits(const TopLogitsArgs& args, Stream stream) {
  if (args.rows == 0) return;
  const int64_t chunks = ChunksOf(args.vocab);
  TANDEM_CHECK(args.k >= 1 && args.k <= kTopLogitsMax);
  TANDEM_CHECK_LE(args.k, args.vocab);
  TANDEM_CHECK_LE(chunks * args.k, int64_t{kChunk});
  TANDEM_CHECK_LE(args.rows, int64_t{0x7fffffff});
  TANDEM_CHECK_LE(TopLogitsWorkspaceBytes(args.rows, args.vocab, args.k), args.workspace_bytes);
  TANDEM_CHECK_EQ(reinterpret_cast<uintptr_t>(args.workspace) % alignof(Key), 0u);
  Key* const keys = static_cast<Key*>(args.workspace);
  auto* const not_finite = reinterpret_cast<uint32_t*>(keys + args.rows * chunks * args.k);
  const int k = static_cast<int>(args.k);
  Launch(TopOfChunkKernel, dim3(static_cast<unsigned>(args.rows), static_cast<unsigned>(chunks)),
         kThreads, sizeof(Search), stream, args.logits, args.vocab, k, keys, not_finite);
  Launch(TopOfRowKernel, static_cast<unsigned>(args.rows), kThreads,
         sizeof(Search) + k * sizeof(Key), stream, args.logits, args.vocab, k,
         static_cast<int>(chunks), keys, not_finite, args.values, args.ids, args.not_finite);
}

}  // namespace tandem::gpu_worker::cuda
