#include "gpu_worker/backend/cuda/kernels/linear/linear.h"

#include <algorithm>

#include "gpu_worker/backend/cuda/kernels/linear/linear_kernels.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int64_t kAlignBytes = 256;

// Which kernel does a product.
enum class Path { kReference };

Path Choose(Kernels, const DeviceMatrix&) { return Path::kReference; }

// Offsets into the workspace of one chunk of rows.
struct Layout {
  int64_t scales = 0, bytes = 0;  // the numbers come first
};

Layout LayoutOf(const DeviceMatrix& w, int64_t rows) {
  Layout layout;
  if (w.format.kind != WeightKind::kFp8) return layout;
  const int64_t k_padded = RoundUpTo(w.inputs, kInputsMultiple);
  layout.scales = RoundUpTo(w.batch * rows * k_padded * 2, kAlignBytes);
  layout.bytes =
      layout.scales + w.batch * k_padded / kFp8ScaleBlock * RoundUpTo(rows, kRowTileMax) * 4;
  return layout;
}

InputRows Prepare(const LinearArgs& args, const InputRows& x, int64_t rows, const Layout& layout,
                  Stream stream) {
  auto* const workspace = static_cast<std::byte*>(args.workspace);
  PrepareInputsArgs prepare = {.x = x,
                               .rows = rows,
                               .inputs = args.w.inputs,
                               .batch = args.w.batch,
                               .quantize = args.w.format.kind == WeightKind::kFp8,
                               .numbers = reinterpret_cast<uint16_t*>(workspace),
                               .scales = reinterpret_cast<float*>(workspace + layout.scales),
                               .scale_rows = RoundUpTo(rows, kRowTileMax)};
  PrepareInputs(prepare, stream);
  const int64_t k_padded = RoundUpTo(args.w.inputs, kInputsMultiple);
  return {prepare.numbers, k_padded,       rows * k_padded,
          Storage::kBf16,  prepare.scales, prepare.scale_rows};
}

// Rows [begin, begin + rows).
void LinearChunk(const LinearArgs& args, int64_t begin, int64_t rows, Stream stream) {
  const DeviceMatrix& w = args.w;
  InputRows x = {
      static_cast<const std::byte*>(args.x) + begin * args.x_stride * BytesOf(args.x_storage),
      args.x_stride, args.x_batch_stride, args.x_storage};
  const OutputRows y = {
      static_cast<std::byte*>(args.y) + begin * args.y_stride * BytesOf(args.y_storage),
      args.y_stride, args.y_batch_stride, args.y_storage};
  const Layout layout = LayoutOf(w, rows);
  if (w.format.kind == WeightKind::kFp8) x = Prepare(args, x, rows, layout, stream);
  switch (Choose(args.kernels, w)) {
    case Path::kReference:
      return LinearReference(w, x, y, rows, stream);
  }
}

}  // namespace

size_t LinearWorkspaceBytes(Kernels, const DeviceMatrix& w, int64_t rows) {
  return static_cast<size_t>(LayoutOf(w, std::min(rows, kRowsAtOnce)).bytes);
}

void Linear(const LinearArgs& args, Stream stream) {
  TANDEM_CHECK(args.w.format.kind == WeightKind::kF32 || args.x_storage == Storage::kBf16);
  TANDEM_CHECK_GE(args.workspace_bytes, LinearWorkspaceBytes(args.kernels, args.w, args.rows));
  for (int64_t begin = 0; begin < args.rows; begin += kRowsAtOnce) {
    LinearChunk(args, begin, std::min(kRowsAtOnce, args.rows - begin), stream);
  }
}

}  // namespace tandem::gpu_worker::cuda
