#include "gpu_worker/backend/cuda/kernels/linear/linear.h"

#include <algorithm>

#include "gpu_worker/backend/cuda/kernels/linear/cublaslt.h"
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

// Whether the kernel reads prepared inputs (PrepareInputs) in any case, and whether it may.
bool AlwaysPrepares(const DeviceMatrix& w) { return w.format.kind == WeightKind::kFp8; }
bool MayPrepare(Path path, const DeviceMatrix& w) {
  return AlwaysPrepares(w) || path == Path::kPortable;
}

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

// Offsets into the workspace of one chunk of rows; prepared inputs come first.
struct Layout {
  int64_t scales = 0, partials = 0, bytes = 0;
};

Layout LayoutOf(Path path, const DeviceMatrix& w, int64_t rows) {
  const int64_t k_padded = RoundUpTo(w.inputs, kInputsMultiple);
  Layout layout;
  if (MayPrepare(path, w)) layout.scales = RoundUpTo(w.batch * rows * k_padded * 2, kAlignBytes);
  layout.partials = layout.scales;
  if (AlwaysPrepares(w)) {
    layout.partials +=
        w.batch * k_padded / kFp8ScaleBlock * RoundUpTo(rows, kRowTileMax) * int64_t{4};
  }
  layout.partials = RoundUpTo(layout.partials, kAlignBytes);
  layout.bytes = layout.partials + PartialBytes(w, rows, SplitsOf(path, w));
  return layout;
}

std::byte* Workspace(const LinearArgs& args) { return static_cast<std::byte*>(args.workspace); }

// Rows from `begin` on.
Fp8Rows From(const Fp8Rows& x, int64_t inputs, int64_t begin) {
  if (x.codes == nullptr) return {};
  const int64_t k_padded = RoundUpTo(inputs, kInputsMultiple);
  return {x.codes + begin * k_padded, x.scales + begin * (k_padded / kFp8ScaleBlock)};
}

InputRows Prepare(const LinearArgs& args, const InputRows& x, const Fp8Rows& x_fp8, int64_t rows,
                  const Layout& layout, Stream stream) {
  const PrepareInputsArgs prepare = {
      .x = x,
      .x_fp8 = x_fp8,
      .rows = rows,
      .inputs = args.w.inputs,
      .batch = args.w.batch,
      .quantize = AlwaysPrepares(args.w),
      .numbers = reinterpret_cast<uint16_t*>(Workspace(args)),
      .scales = reinterpret_cast<float*>(Workspace(args) + layout.scales),
      .scale_rows = RoundUpTo(rows, kRowTileMax)};
  PrepareInputs(prepare, stream);
  const int64_t k_padded = RoundUpTo(args.w.inputs, kInputsMultiple);
  return {prepare.numbers, k_padded,       rows * k_padded,
          Storage::kBf16,  prepare.scales, prepare.scale_rows};
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
  const bool prepare = AlwaysPrepares(w) || (path == Path::kPortable && !CanBeRead(args));
  const InputRows x =
      prepare ? Prepare(args, given, From(args.x_fp8, w.inputs, begin), rows, layout, stream)
              : given;
  if (path == Path::kReference) return LinearReference(w, x, y, rows, stream);
  const PortableArgs portable = {
      .w = w,
      .x = x,
      .x_inputs = prepare ? RoundUpTo(w.inputs, kInputsMultiple) : w.inputs,
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
  return static_cast<size_t>(LayoutOf(path, w, std::min(rows, kRowsAtOnce)).bytes);
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
  for (int64_t begin = 0; begin < args.rows; begin += kRowsAtOnce) {
    LinearChunk(args, begin, std::min(kRowsAtOnce, args.rows - begin), stream);
  }
}

}  // namespace tandem::gpu_worker::cuda
