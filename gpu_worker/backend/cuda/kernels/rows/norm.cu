// RMS norms, alone and quantized at once.
#include "gpu_worker/backend/cuda/kernels/rows/norm_row.h"
#include "gpu_worker/backend/cuda/kernels/rows/quantize_run.h"
#include "gpu_worker/backend/cuda/kernels/rows/rows.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

template <Storage kStorage, int kThreads>
__global__ void __launch_bounds__(kNormBlockThreads) RmsNormKernel(RmsNormArgs a) {
  const int64_t row = RowOfThread<kThreads>();
  if (row >= a.rows) return;
  const int64_t from = a.row_ids == nullptr ? row : a.row_ids[row];
  auto* const out = static_cast<Stored<kStorage>*>(a.out) + row * a.out_stride;
  NormRow<kStorage, kThreads>(static_cast<const Stored<kStorage>*>(a.x) + from * a.x_stride,
                              a.weight, a.eps, a.cols, 1,
                              [&](int64_t packet, const float(&v)[kPacket]) {
                                StorePacket(v, out, packet * kPacket, a.cols);
                              });
}

template <int kThreads>
__global__ void __launch_bounds__(kNormBlockThreads)
    RmsNormFp8Kernel(RmsNormArgs a, uint8_t* codes, float* scales) {
  const int64_t row = RowOfThread<kThreads>();
  if (row >= a.rows) return;
  const int64_t from = a.row_ids == nullptr ? row : a.row_ids[row];
  const int64_t runs = Fp8Runs(a.cols);
  Bf16* const out = a.out == nullptr ? nullptr : static_cast<Bf16*>(a.out) + row * a.out_stride;
  NormRow<Storage::kBf16, kThreads>(
      static_cast<const Bf16*>(a.x) + from * a.x_stride, a.weight, a.eps, a.cols, kFp8RunLanes,
      [&](int64_t packet, const float(&v)[kPacket]) {
        if (out != nullptr) StorePacket(v, out, packet * kPacket, a.cols);
        const int64_t run = packet / kFp8RunLanes;
        QuantizeRun(v, run < runs, codes + row * runs * kFp8Run + packet * kPacket,
                    scales + row * runs + run);
      });
}

}  // namespace

void RmsNorm(const RmsNormArgs& args, Stream stream) {
  if (args.rows == 0) return;
  if (args.storage == Storage::kBf16) {
    LaunchNormRows(RmsNormKernel<Storage::kBf16, kWarpThreads>,
                   RmsNormKernel<Storage::kBf16, kNormBlockThreads>, args.cols, args.rows, stream,
                   args);
  } else {
    LaunchNormRows(RmsNormKernel<Storage::kF32, kWarpThreads>,
                   RmsNormKernel<Storage::kF32, kNormBlockThreads>, args.cols, args.rows, stream,
                   args);
  }
}

void RmsNormFp8(const RmsNormArgs& args, uint8_t* codes, float* scales, Stream stream) {
  if (args.rows == 0) return;
  TANDEM_CHECK(args.storage == Storage::kBf16);
  TANDEM_CHECK_EQ(reinterpret_cast<uintptr_t>(codes) % 8, 0u);
  LaunchNormRows(RmsNormFp8Kernel<kWarpThreads>, RmsNormFp8Kernel<kNormBlockThreads>, args.cols,
                 args.rows, stream, args, codes, scales);
}

}  // namespace tandem::gpu_worker::cuda
