// The RMS norm of one row, for the kernels that do something with it at once: a warp for short
// rows, a block for long ones. A row's packets are dealt to threads in turn, so the order of its
// sum depends on its length alone. What a thread has read stays in registers until the sum is
// there; of rows longer than that, the rest is read twice.
#pragma once

#include "gpu_worker/backend/cuda/kernels/rows/packet.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {

inline constexpr int kNormHeldPackets = 4;
// Rows up to here are a warp's: 1024 values, all of them held.
inline constexpr int64_t kNormWarpColsMax = kNormHeldPackets * kPacket * kWarpThreads;
inline constexpr int kNormBlockThreads = 256;  // hold 8192 values: every hidden size of the family
inline constexpr int kNormWarpRows = 4;        // rows of a block where a warp has one

template <int kThreads>
__device__ __forceinline__ int64_t RowOfThread() {
  return kThreads == kWarpThreads ? static_cast<int64_t>(blockIdx.x) * kNormWarpRows + WarpId()
                                  : static_cast<int64_t>(blockIdx.x);
}
template <int kThreads>
__device__ __forceinline__ int ThreadOfRow() {
  return kThreads == kWarpThreads ? LaneId() : static_cast<int>(threadIdx.x);
}

// Reads a row and calls use(packet, values) with each of its packets, normed and rounded as it is
// stored, and, up to a multiple of `granule` packets, with padding (zeros; NaN where the row's sum
// is not finite): all lanes of a warp together. Packets are in an order of the thread's own.
template <Storage kStorage, int kThreads, typename Use>
__device__ __forceinline__ void NormRow(const Stored<kStorage>* x, const float* weight, float eps,
                                        int64_t cols, int64_t granule, Use use) {
  const int thread = ThreadOfRow<kThreads>(), first_lane = thread / kWarpThreads * kWarpThreads;
  const int64_t packets = (PacketsOf(cols) + granule - 1) / granule * granule;
  const bool whole = cols % kPacket == 0 && IsAligned16(x) && IsAligned16(weight);
  RawPacket<kStorage> held[kNormHeldPackets];
  RawPacket<Storage::kF32> weights[kNormHeldPackets];
  const auto begin_of = [&](int c) { return (int64_t{1} * c * kThreads + thread) * kPacket; };
  if (whole) {
#pragma unroll
    for (int c = 0; c < kNormHeldPackets; ++c) {
      held[c] = LoadWhole<kStorage>(x, begin_of(c), begin_of(c) < cols);
    }
#pragma unroll
    for (int c = 0; c < kNormHeldPackets; ++c) {
      weights[c] = LoadWhole<Storage::kF32>(weight, begin_of(c), begin_of(c) < cols);
    }
  } else {
#pragma unroll
    for (int c = 0; c < kNormHeldPackets; ++c) {
      held[c] = LoadSlowly<kStorage>(x, begin_of(c), cols);
      weights[c] = LoadSlowly<Storage::kF32>(weight, begin_of(c), cols);
    }
  }
  float sum = 0.0f;
  const auto add = [&](const RawPacket<kStorage>& raw) {
    float v[kPacket];
    Unpack(raw, v);
#pragma unroll
    for (int i = 0; i < kPacket; ++i) sum = fmaf(v[i], v[i], sum);
  };
#pragma unroll
  for (int c = 0; c < kNormHeldPackets; ++c) add(held[c]);
  for (int64_t p = kNormHeldPackets * kThreads + thread; p * kPacket < cols; p += kThreads) {
    add(LoadRaw<kStorage>(x, p * kPacket, cols));
  }
  if constexpr (kThreads == kWarpThreads) {
    sum = WarpSum(sum);
  } else {
    sum = BlockSum(sum, reinterpret_cast<float*>(SharedMemory()));
  }
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(cols) + eps);
  const auto finish = [&](int64_t p, const RawPacket<kStorage>& raw,
                          const RawPacket<Storage::kF32>& raw_weights) {
    float v[kPacket], w[kPacket];
    Unpack(raw, v);
    Unpack(raw_weights, w);
#pragma unroll
    for (int i = 0; i < kPacket; ++i) v[i] = RoundedTo<kStorage>(v[i] * scale * w[i]);
    use(p, v);
  };
#pragma unroll
  for (int c = 0; c < kNormHeldPackets; ++c) {
    if (c * kThreads + first_lane < packets) {
      finish(static_cast<int64_t>(c) * kThreads + thread, held[c], weights[c]);
    }
  }
  for (int64_t p = kNormHeldPackets * kThreads; p + first_lane < packets; p += kThreads) {
    const int64_t begin = (p + thread) * kPacket;
    finish(p + thread, LoadRaw<kStorage>(x, begin, cols),
           LoadRaw<Storage::kF32>(weight, begin, cols));
  }
}

inline constexpr size_t kNormBlockSumBytes = kNormBlockThreads / kWarpThreads * sizeof(float);

// A launch of `kernel`, which is one of the two for short and long rows.
template <typename Kernel, typename... Arguments>
void LaunchNormRows(Kernel for_warps, Kernel for_blocks, int64_t cols, int64_t rows, Stream stream,
                    const Arguments&... arguments) {
  TANDEM_CHECK_LE(rows, int64_t{0x7fffffff});
  TANDEM_CHECK(cols > 0);
  if (cols <= kNormWarpColsMax) {
    Launch(for_warps, static_cast<unsigned>((rows + kNormWarpRows - 1) / kNormWarpRows),
           kNormWarpRows * kWarpThreads, 0, stream, arguments...);
  } else {
    Launch(for_blocks, static_cast<unsigned>(rows), kNormBlockThreads, kNormBlockSumBytes, stream,
           arguments...);
  }
}

}  // namespace tandem::gpu_worker::cuda
