// What the tensor-core kernels of prefill have in common: their parameters, and how the state of a
// row moves between pieces and to the result. In both, thread 4 g + t of a warp holds of rows g and
// g + 8 of its 16 the columns 8 j + 2 t and + 1 of the accumulators (mma.h, hopper_wgmma.h),
// numbered 4 j + 2 (row / 8) + column % 2, the row's maximum, and the sum over its own columns.
#pragma once

#include <cmath>

#include "gpu_worker/backend/cuda/kernels/attention/prefill_kernels.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"

namespace tandem::gpu_worker::cuda {

struct PrefillParameters {
  const Bf16* q;
  const Bf16* latents;
  const Bf16* keys;
  const Bf16* values;
  float* means;
  float* maxima;
  float* sums;
  Bf16* out;
  int64_t rows, start_position, begin, tokens;
  int heads_all, head_begin, latent, tiles;
  float scale_log2;  // scores in units of log2
};

inline PrefillParameters ParametersOf(const PrefillPiece& piece) {
  constexpr float kLog2E = 1.4426950408889634f;
  const MlaPrefillArgs& args = *piece.args;
  return {static_cast<const Bf16*>(args.q),
          static_cast<const Bf16*>(piece.latents),
          static_cast<const Bf16*>(piece.keys),
          static_cast<const Bf16*>(piece.values),
          piece.means,
          piece.maxima,
          piece.sums,
          static_cast<Bf16*>(args.out),
          args.rows,
          args.start_position,
          piece.begin,
          piece.tokens,
          static_cast<int>(args.shape.heads),
          static_cast<int>(piece.head_begin),
          static_cast<int>(args.shape.latent),
          static_cast<int>((args.rows + kPrefillTileRows - 1) / kPrefillTileRows),
          args.shape.softmax_scale * kLog2E};
}

// One thread block: 128 rows of one head, blockIdx (head, tile). The last rows see the most keys:
// they start first.
struct PrefillTile {
  int64_t head, row;  // head counted from head_begin; first row
  int64_t seen;       // by the last row, from the piece's first key on; more than it has, or <= 0
  __device__ __forceinline__ explicit PrefillTile(const PrefillParameters& p)
      : head(blockIdx.x),
        row(int64_t{p.tiles - 1 - static_cast<int>(blockIdx.y)} * kPrefillTileRows) {
    const int64_t end = row + kPrefillTileRows;
    seen = p.start_position + (end < p.rows ? end : p.rows) - p.begin;
  }
  // Nothing to do: it was done in a piece before this one.
  __device__ __forceinline__ bool IsDone() const { return seen <= 0; }
  __device__ __forceinline__ bool IsLastPiece(const PrefillParameters& p) const {
    return seen <= p.tokens;
  }
  __device__ __forceinline__ int Blocks(const PrefillParameters& p, int block_keys) const {
    const int64_t keys = IsLastPiece(p) ? seen : p.tokens;
    return static_cast<int>((keys + block_keys - 1) / block_keys);
  }
};

// The rows of a thread: `row` of the call and row + 8. mean(i): accumulator i.
template <int kV, typename Mean>
__device__ __forceinline__ void StartRows(const PrefillParameters& p, int64_t head, int64_t row,
                                          float (&max)[2], float (&sum)[2], const Mean& mean) {
  const int t = LaneId() % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t r = row + 8 * half;
    const bool fresh = p.begin == 0 || r >= p.rows;
    const int64_t pair = head * p.rows + r;
    max[half] = fresh ? -INFINITY : p.maxima[pair];
    sum[half] = fresh ? 0.0f : p.sums[pair * kPrefillSums + t];
    const float* const from = p.means + pair * kV + 2 * t;
#pragma unroll
    for (int j = 0; j < kV / 8; ++j) {
      mean(4 * j + 2 * half) = fresh ? 0.0f : from[8 * j];
      mean(4 * j + 2 * half + 1) = fresh ? 0.0f : from[8 * j + 1];
    }
  }
}

template <int kV, typename Mean>
__device__ __forceinline__ void SaveRows(const PrefillParameters& p, int64_t head, int64_t row,
                                         const float (&max)[2], const float (&sum)[2],
                                         const Mean& mean) {
  const int t = LaneId() % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t r = row + 8 * half;
    if (r >= p.rows) continue;
    const int64_t pair = head * p.rows + r;
    if (t == 0) p.maxima[pair] = max[half];
    p.sums[pair * kPrefillSums + t] = sum[half];
    float* const to = p.means + pair * kV + 2 * t;
#pragma unroll
    for (int j = 0; j < kV / 8; ++j) {
      to[8 * j] = mean(4 * j + 2 * half);
      to[8 * j + 1] = mean(4 * j + 2 * half + 1);
    }
  }
}

// Over the four threads of a row.
__device__ __forceinline__ float PrefillRowSum(float value) {
  value += __shfl_xor_sync(kFullWarp, value, 1);
  return value + __shfl_xor_sync(kFullWarp, value, 2);
}
__device__ __forceinline__ float PrefillRowMax(float value) {
  value = fmaxf(value, __shfl_xor_sync(kFullWarp, value, 1));
  return fmaxf(value, __shfl_xor_sync(kFullWarp, value, 2));
}

template <int kV, typename Mean>
__device__ __forceinline__ void StoreRows(const PrefillParameters& p, int64_t head, int64_t row,
                                          const float (&sum)[2], const Mean& mean) {
  const int t = LaneId() % 4;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t r = row + 8 * half;
    const float inverse = 1.0f / PrefillRowSum(sum[half]);
    if (r >= p.rows) continue;
    const int64_t pair = r * p.heads_all + p.head_begin + head;
    uint32_t* const to = reinterpret_cast<uint32_t*>(p.out + pair * kV) + t;
#pragma unroll
    for (int j = 0; j < kV / 8; ++j) {
      // + 0: a -0 that masked keys would have turned to +0 becomes +0 here at the latest.
      to[4 * j] = PackBf16x2(mean(4 * j + 2 * half) * inverse + 0.0f,
                             mean(4 * j + 2 * half + 1) * inverse + 0.0f);
    }
  }
}

// What becomes of the rows at the end of a piece.
template <int kV, typename Mean>
__device__ __forceinline__ void EndRows(const PrefillParameters& p, const PrefillTile& tile,
                                        int64_t row, const float (&max)[2], const float (&sum)[2],
                                        const Mean& mean) {
  if (tile.IsLastPiece(p)) {
    StoreRows<kV>(p, tile.head, row, sum, mean);
  } else {
    SaveRows<kV>(p, tile.head, row, max, sum, mean);
  }
}

// Scores of a thread's two rows and kColumns keys of a block, numbered as accumulators are: those
// of keys behind the row become -inf. `ahead`: position of the first row minus that of the block's
// first key.
template <int kColumns, typename Score>
__device__ __forceinline__ void MaskScores(int ahead, const Score& score) {
  const int t = LaneId() % 4;
#pragma unroll
  for (int i = 0; i < kColumns / 2; ++i) {
    if (8 * (i / 4) + 2 * t + i % 2 > ahead + i % 4 / 2 * 8) score(i) = -INFINITY;
  }
}

// The maximum moves, scores become exp(score - maximum), the sum follows; keep[half]: by what the
// means of the row are still to be multiplied.
template <int kColumns, typename Score>
__device__ __forceinline__ void Exponentials(float scale_log2, float (&max)[2], float (&sum)[2],
                                             float (&keep)[2], const Score& score) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float new_max = max[half];
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
      new_max = fmaxf(new_max, fmaxf(score(4 * j + 2 * half), score(4 * j + 2 * half + 1)));
    }
    new_max = PrefillRowMax(new_max);
    keep[half] = FastExp2((max[half] - new_max) * scale_log2);
    const float shift = new_max * scale_log2;
    float new_sum = sum[half] * keep[half];
#pragma unroll
    for (int j = 0; j < kColumns / 8; ++j) {
#pragma unroll
      for (int i = 4 * j + 2 * half; i < 4 * j + 2 * half + 2; ++i) {
        score(i) = FastExp2(fmaf(score(i), scale_log2, -shift));
        new_sum += score(i);
      }
    }
    max[half] = new_max;
    sum[half] = new_sum;
  }
}

}  // namespace tandem::gpu_worker::cuda
