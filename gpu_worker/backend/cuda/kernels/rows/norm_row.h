// The RMS norm of one row, for the kernels that do something with it at once: a warp for short
// rows, a block for long ones. A row's packets are dealt to threads in turn, so the order of its
// sum depends on its length alone. What a thread has read stays in registers until the sum is
// there; of rows longer than that, the rest is read twice.
#pragma once

#include "gpu_worker/backend/cuda/kernels/rows/packet.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {

inline constexpr int kNormHeldPackets = 4;  // a thread: 32 registers
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
// stored, and, up to a multiple of `granule` packets, with packets of zeros: all lanes of a warp
// together. Packets are in an order of the thread's own.
template <Storage kStorage, int kThreads, typename Use>
__device__ __forceinline__ void NormRow(const Stored<kStorage>* x, const float* weight, float eps,
                                        int64_t cols, int64_t granule, Use use) {
  const int thread = ThreadOfRow<kThreads>(), first_lane = thread / kWarpThreads * kWarpThreads;
  const int64_t packets = (PacketsOf(cols) + granule - 1) / granule * granule;
  float held[kNormHeldPackets][kPacket];
  float sum = 0.0f;
  const auto add = [&](const float(&v)[kPacket]) {
#pragma unroll
    for (int i = 0; i < kPacket; ++i) sum = fmaf(v[i], v[i], sum);
  };
#pragma unroll
  for (int c = 0; c < kNormHeldPackets; ++c) {
    LoadPacket(x, (static_cast<int64_t>(c) * kThreads + thread) * kPacket, cols, held[c]);
  }
#pragma unroll
  for (int c = 0; c < kNormHeldPackets; ++c) add(held[c]);
  for (int64_t p = kNormHeldPackets * kThreads + thread; p * kPacket < cols; p += kThreads) {
    float v[kPacket];
    LoadPacket(x, p * kPacket, cols, v);
    add(v);
  }
  if constexpr (kThreads == kWarpThreads) {
    sum = WarpSum(sum);
  } else {
    sum = BlockSum(sum, reinterpret_cast<float*>(SharedMemory()));
  }
  const float scale = 1.0f / sqrtf(sum / static_cast<float>(cols) + eps);
  const auto finish = [&](int64_t p, float(&v)[kPacket]) {
    float w[kPacket];
    LoadPacket(weight, p * kPacket, cols, w);
#pragma unroll
    for (int i = 0; i < kPacket; ++i) {
      // A padding value stays zero, whatever the scale is.
      v[i] = p * kPacket + i < cols ? RoundedTo<kStorage>(v[i] * scale * w[i]) : 0.0f;
    }
    use(p, v);
  };
#pragma unroll
  for (int c = 0; c < kNormHeldPackets; ++c) {
    if (c * kThreads + first_lane < packets) {
      finish(static_cast<int64_t>(c) * kThreads + thread, held[c]);
    }
  }
  for (int64_t p = kNormHeldPackets * kThreads; p + first_lane < packets; p += kThreads) {
    float v[kPacket];
    LoadPacket(x, (p + thread) * kPacket, cols, v);
    finish(p + thread, v);
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
