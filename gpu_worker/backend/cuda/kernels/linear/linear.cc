#include "gpu_worker/backend/cuda/kernels/linear/linear.h"

#include <algorithm>

#include "gpu_worker/backend/cuda/kernels/linear/cublaslt.h"
#include "gpu_worker/backend/cuda/kernels/linear/fp8_rows.h"
#include "gpu_worker/backend/cuda/kernels/linear/hopper_fp8.h"
#include "gpu_worker/backend/cuda/kernels/linear/linear_kernels.h"
#include "gpu_worker/backend/cuda/kernels/linear/portable_layout.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int64_t kAlignBytes = 256;
constexpr int64_t kCopyBytes = 16;  // what cp.async takes, and how its source must be aligned

// Which kernel of this file's interface does a product (Linear asks for Hopper's before). Must not
// depend on the rows: kernels differ in bits.
enum class Path { kReference, kPortable, kPortableF32 };

Path Choose(Kernels kernels, const DeviceMatrix& w) {
  if (kernels == Kernels::kReference) return Path::kReference;
  return w.format.kind == WeightKind::kF32 ? Path::kPortableF32 : Path::kPortable;
}

bool IsFp8(const DeviceMatrix& w) { return w.format.kind == WeightKind::kFp8; }

// The portable kernel copies 16 bytes of a row at a time, which have to be aligned, and all of them
// inputs.
bool CanBeRead(const LinearArgs& args) {
  constexpr int64_t kValues = kCopyBytes / 2;
  return reinterpret_cast<uintptr_t>(args.x) % kCopyBytes == 0 && args.x_stride % kValues == 0 &&
         (args.w.batch == 1 || args.x_batch_stride % kValues == 0) && args.w.inputs % kValues == 0;
}

int64_t SplitsOf(Path path, const DeviceMatrix& w) {
  if (path != Path::kPortable) return 1;
  return SplitsOfLinear(std::max(w.outputs, w.whole_outputs), w.inputs,
                        std::max(w.batch, w.whole_batch));
}

int64_t ChunkRows(Path path, const DeviceMatrix& w) {
  return RowsAtOnce(SplitsOf(path, w), w.batch);
}

// Places in the workspace of one chunk of rows; inputs, quantized or copied, come first.
struct Layout {
  int64_t partials = 0, bytes = 0;
};

Layout LayoutOf(Path path, const DeviceMatrix& w, int64_t rows) {
  Layout layout;
  if (IsFp8(w)) {
    layout.partials = Fp8RowsBytes(w, rows);
  } else if (path == Path::kPortable) {
    layout.partials =
        RoundUpTo(w.batch * rows * RoundUpTo(w.inputs, kInputsMultiple) * 2, kAlignBytes);
  }
  layout.bytes = layout.partials + PartialBytes(w, rows, SplitsOf(path, w));
  return layout;
}

std::byte* Workspace(const LinearArgs& args) { return static_cast<std::byte*>(args.workspace); }

InputRows QuantizedInputs(const LinearArgs& args, int64_t begin, int64_t rows, Stream stream) {
  const Fp8Rows x = QuantizedRows(args, begin, rows, stream);
  const int64_t k_padded = RoundUpTo(args.w.inputs, kInputsMultiple);
  return {x.codes, k_padded, rows * k_padded, Storage::kBf16, x.scales};
}

// Rows that the portable kernel can read: these, or a copy in the workspace.
InputRows Readable(const LinearArgs& args, const InputRows& x, int64_t rows, Stream stream) {
  if (CanBeRead(args)) return x;
  auto* const to = reinterpret_cast<uint16_t*>(Workspace(args));
  const int64_t k_padded = RoundUpTo(args.w.inputs, kInputsMultiple);
  CopyInputs(x, rows, args.w.inputs, args.w.batch, to, stream);
  return {to, k_padded, rows * k_padded, Storage::kBf16, nullptr};
}

// Rows [begin, begin + rows).
void LinearChunk(const LinearArgs& args, int64_t begin, int64_t rows, Stream stream) {
  const DeviceMatrix& w = args.w;
  const Path path = Choose(args.kernels, w);
  const Layout layout = LayoutOf(path, w, rows);
  const auto* const x_begin = static_cast<const std::byte*>(args.x);  // null: quantized rows
  const InputRows given = {
      x_begin == nullptr ? nullptr : x_begin + begin * args.x_stride * BytesOf(args.x_storage),
      args.x_stride, args.x_batch_stride, args.x_storage};
  const OutputRows y = {
      static_cast<std::byte*>(args.y) + begin * args.y_stride * BytesOf(args.y_storage),
      args.y_stride, args.y_batch_stride, args.y_storage};
  const InputRows x = IsFp8(w)                  ? QuantizedInputs(args, begin, rows, stream)
                      : path == Path::kPortable ? Readable(args, given, rows, stream)
                                                : given;
  if (path == Path::kReference) return LinearReference(w, x, y, rows, stream);
  const PortableArgs portable = {
      .w = w,
      .x = x,
      .x_inputs = x.x == given.x ? w.inputs : RoundUpTo(w.inputs, kInputsMultiple),
      .y = y,
      .rows = rows,
      .splits = SplitsOf(path, w),
      .partials = reinterpret_cast<float*>(Workspace(args) + layout.partials)};
  path == Path::kPortableF32 ? LinearPortableF32(portable, stream)
                             : LinearPortable(portable, stream);
}

}  // namespace

size_t LinearWorkspaceBytes(Kernels kernels, const DeviceMatrix& w, int64_t rows,
                            bool allow_batch_dependent) {
  if (allow_batch_dependent) {
    return std::max(LinearWorkspaceBytes(kernels, w, rows), CublasLtScratchBytes(w, rows));
  }
  if (HasHopperFp8(kernels, w)) return HopperFp8WorkspaceBytes(w, rows);
  const Path path = Choose(kernels, w);
  return static_cast<size_t>(LayoutOf(path, w, std::min(rows, ChunkRows(path, w))).bytes);
}

void Linear(const LinearArgs& args, Stream stream) {
  TANDEM_CHECK(args.w.format.kind == WeightKind::kF32 || args.x_storage == Storage::kBf16);
  TANDEM_CHECK(args.x_fp8.codes == nullptr ||
               (args.w.format.kind == WeightKind::kFp8 && args.w.batch == 1 &&
                reinterpret_cast<uintptr_t>(args.x_fp8.codes) % kCopyBytes == 0));
  TANDEM_CHECK_GE(args.workspace_bytes, LinearWorkspaceBytes(args.kernels, args.w, args.rows,
                                                             args.allow_batch_dependent));
  if (TakesCublasLt(args)) return LinearCublasLt(args, stream);
  if (HasHopperFp8(args.kernels, args.w)) return LinearHopperFp8(args, stream);
  const int64_t at_once = ChunkRows(Choose(args.kernels, args.w), args.w);
  for (int64_t begin = 0; begin < args.rows; begin += at_once) {
    LinearChunk(args, begin, std::min(at_once, args.rows - begin), stream);
  }
}

}  // namespace tandem::gpu_worker::cuda
