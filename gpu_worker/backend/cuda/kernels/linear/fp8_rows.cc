#include "gpu_worker/backend/cuda/kernels/linear/fp8_rows.h"

#include "gpu_worker/backend/cuda/kernels/linear/pack.h"
#include "gpu_worker/backend/cuda/kernels/rows/rows.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int64_t kAlignBytes = 256;

int64_t ScalesAt(const DeviceMatrix& w, int64_t rows) {
  return RoundUpTo(w.batch * rows * RoundUpTo(w.inputs, kInputsMultiple), kAlignBytes);
}

}  // namespace

int64_t Fp8RowsBytes(const DeviceMatrix& w, int64_t rows) {
  const int64_t runs = RoundUpTo(w.inputs, kInputsMultiple) / kFp8ScaleBlock;
  return ScalesAt(w, rows) + RoundUpTo(w.batch * rows * runs * 4, kAlignBytes);
}

Fp8Rows QuantizedRows(const LinearArgs& args, int64_t begin, int64_t rows, Stream stream) {
  const DeviceMatrix& w = args.w;
  const int64_t k_padded = RoundUpTo(w.inputs, kInputsMultiple), runs = k_padded / kFp8ScaleBlock;
  if (args.x_fp8.codes != nullptr) {
    return {args.x_fp8.codes + begin * k_padded, args.x_fp8.scales + begin * runs};
  }
  auto* const codes = static_cast<uint8_t*>(args.workspace);
  auto* const scales = reinterpret_cast<float*>(codes + ScalesAt(w, rows));
  const auto* x = static_cast<const uint16_t*>(args.x) + begin * args.x_stride;
  for (int64_t b = 0; b < w.batch; ++b, x += args.x_batch_stride) {
    QuantizeFp8Rows(x, args.x_stride, w.inputs, rows, codes + b * rows * k_padded,
                    scales + b * rows * runs, stream);
  }
  return {codes, scales};
}

}  // namespace tandem::gpu_worker::cuda
