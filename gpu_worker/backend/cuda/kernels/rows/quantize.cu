// Rows to e4m3: sixteen lanes a run of 128 values, a packet each.
#include <algorithm>

#include "gpu_worker/backend/cuda/kernels/rows/exact_exp.h"
#include "gpu_worker/backend/cuda/kernels/rows/packet.h"
#include "gpu_worker/backend/cuda/kernels/rows/quantize_run.h"
#include "gpu_worker/backend/cuda/kernels/rows/rows.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int kThreads = 256;

struct Place {
  int64_t row, packet, run, runs;
};

__device__ __forceinline__ Place PlaceOf(int64_t cols) {
  Place place;
  place.row = blockIdx.x;
  place.packet = static_cast<int64_t>(blockIdx.y) * blockDim.x + threadIdx.x;
  place.run = place.packet / kFp8RunLanes;
  place.runs = Fp8Runs(cols);
  return place;
}

__device__ __forceinline__ void WriteRun(const Place& p, const float (&v)[kPacket], uint8_t* codes,
                                         float* scales) {
  QuantizeRun(v, p.run < p.runs, codes + p.row * p.runs * kFp8Run + p.packet * kPacket,
              scales + p.row * p.runs + p.run);
}

__global__ void __launch_bounds__(kThreads)
    QuantizeFp8RowsKernel(const Bf16* x, int64_t x_stride, int64_t cols, uint8_t* codes,
                          float* scales) {
  const Place p = PlaceOf(cols);
  float v[kPacket];
  LoadPacket<Storage::kBf16>(x + p.row * x_stride, p.packet * kPacket, cols, v);
  WriteRun(p, v, codes, scales);
}

__global__ void __launch_bounds__(kThreads)
    SwiGluFp8Kernel(const Bf16* gate, const Bf16* up, int64_t stride, int64_t cols, uint8_t* codes,
                    float* scales) {
  const Place p = PlaceOf(cols);
  float g[kPacket], u[kPacket];
  LoadPackets<Storage::kBf16, Storage::kBf16>(gate + p.row * stride, up + p.row * stride,
                                              p.packet * kPacket, cols, g, u);
#pragma unroll
  for (int i = 0; i < kPacket; ++i) g[i] = RoundToBf16(ExactSwiGlu(g[i], u[i]));  // of zeros: zero
  WriteRun(p, g, codes, scales);
}

template <typename Kernel, typename... Arguments>
void LaunchRuns(Kernel kernel, int64_t cols, int64_t rows, const uint8_t* codes, Stream stream,
                const Arguments&... arguments) {
  TANDEM_CHECK_LE(rows, int64_t{0x7fffffff});
  TANDEM_CHECK(cols > 0);
  TANDEM_CHECK_EQ(reinterpret_cast<uintptr_t>(codes) % 8, 0u);
  const int64_t lanes = Fp8Runs(cols) * kFp8RunLanes;
  const int64_t block = std::min<int64_t>((lanes + 31) / 32 * 32, kThreads);
  const int64_t parts = (lanes + block - 1) / block;
  TANDEM_CHECK_LE(parts, 65535);
  Launch(kernel, dim3(static_cast<unsigned>(rows), static_cast<unsigned>(parts)),
         static_cast<unsigned>(block), 0, stream, arguments...);
}

}  // namespace

void QuantizeFp8Rows(const uint16_t* x, int64_t x_stride, int64_t cols, int64_t rows,
                     uint8_t* codes, float* scales, Stream stream) {
  if (rows == 0) return;
  LaunchRuns(QuantizeFp8RowsKernel, cols, rows, codes, stream, x, x_stride, cols, codes, scales);
}

void SwiGluFp8(const uint16_t* gate, const uint16_t* up, int64_t stride, int64_t cols, int64_t rows,
               uint8_t* codes, float* scales, Stream stream) {
  if (rows == 0) return;
  LaunchRuns(SwiGluFp8Kernel, cols, rows, codes, stream, gate, up, stride, cols, codes, scales);
}

}  // namespace tandem::gpu_worker::cuda
