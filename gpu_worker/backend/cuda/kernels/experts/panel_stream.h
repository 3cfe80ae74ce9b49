// How a warp reads one panel: from its first byte to its last in stages, each copied to the warp's
// own ring in shared memory together with the same columns of the tile's rows, two stages ahead of
// the one being multiplied. Warps never wait for each other, and with twenty of them a
// multiprocessor has some 90 KB under way, several times what its share of the bandwidth needs to
// hide the latency of memory.
#pragma once

#include "gpu_worker/backend/cuda/kernels/experts/expert_kernels.h"
#include "gpu_worker/backend/cuda/kernels/experts/experts.h"
#include "gpu_worker/backend/cuda/simt/async_copy.h"

namespace tandem::gpu_worker::cuda::experts {

// Stage s of a panel is bytes [Begin(s), Begin(s + 1)), at most kStageBytes, multiples of 16.
template <typename Form>
__device__ __forceinline__ int64_t StageEnd(const ProductWork& w, int stage) {
  const int64_t end = Form::Begin(w, stage + 1);
  return end < w.panel_bytes ? end : w.panel_bytes;
}

template <typename Form>
class PanelStream {
 public:
  __device__ __forceinline__ PanelStream(const ProductWork& w, const ProductTile& tile,
                                         int64_t panel)
      : w_(w),
        panel_(tile.panels + panel * w.panel_bytes),
        rows_(static_cast<int>(tile.rows)),
        buffer_bytes_(Form::kStageBytes + w.rows_max * Form::kRowStride),
        ring_(SharedMemory() + WarpId() * kStages * buffer_bytes_) {
    x_row_ = tile.first + (LaneId() < rows_ ? LaneId() : 0);
    if (w.x_row != nullptr) x_row_ = w.x_row[x_row_];
#pragma unroll
    for (int s = 0; s < kStages - 1; ++s) Copy(s);
  }

  // Waits for stage `stage`, the next one, and starts the copy of a later one. The result is valid
  // until the next call; rows follow at Form::kStageBytes, Form::kRowStride apart.
  __device__ __forceinline__ const unsigned char* Next(int stage) {
    WaitAsyncCopies<kStages - 2>();
    __syncwarp();
    Copy(stage + kStages - 1);
    return ring_ + stage % kStages * buffer_bytes_;
  }

 private:
  __device__ __forceinline__ void Copy(int stage) {
    if (stage < w_.stages) {
      unsigned char* const to = ring_ + stage % kStages * buffer_bytes_;
      const int64_t begin = Form::Begin(w_, stage);
      const int packets = static_cast<int>(StageEnd<Form>(w_, stage) - begin) / 16;
      for (int i = LaneId(); i < packets; i += kWarpThreads) {
        CopyAsync16Once(to + 16 * i, panel_ + begin + 16 * i);
      }
      constexpr int kRowPackets = Form::kRowStageBytes / 16;
      for (int r = 0; r < rows_; ++r) {
        const int64_t row = __shfl_sync(kFullWarp, x_row_, r);
        const unsigned char* const from =
            w_.x + row * w_.x_row_bytes + static_cast<int64_t>(stage) * Form::kRowStageBytes;
#pragma unroll
        for (int i = 0; i < kRowPackets; i += kWarpThreads) {
          if (i + LaneId() < kRowPackets) {
            CopyAsync16(to + Form::kStageBytes + r * Form::kRowStride + 16 * (i + LaneId()),
                        from + 16 * (i + LaneId()));
          }
        }
      }
    }
    CommitAsyncCopies();
  }

  const ProductWork& w_;
  const std::byte* const panel_;
  const int rows_;
  const int buffer_bytes_;
  unsigned char* const ring_;
  uint32_t x_row_;  // lane r: of the tile's row r
};

}  // namespace tandem::gpu_worker::cuda::experts
