// What cuBLASLt takes, and how Linear's operands become that.
#include <algorithm>

#include "absl/strings/str_cat.h"
#include "gpu_worker/backend/cuda/kernels/linear/cublaslt.h"
#include "gpu_worker/backend/cuda/kernels/linear/pack.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr int64_t kAlignBytes = 256;
constexpr int64_t kPointerAlignBytes = 16;
constexpr int64_t kRowsMultiple = 4;  // fp8 (vllm#49932)

int64_t ValueBytes(WeightKind kind) { return kind == WeightKind::kFp8 ? 1 : 2; }

std::string AlignmentProblem(const char* what, const void* pointer, int64_t stride_bytes) {
  if (reinterpret_cast<uintptr_t>(pointer) % kPointerAlignBytes == 0 &&
      stride_bytes % kPointerAlignBytes == 0) {
    return "";
  }
  return absl::StrCat("expected ", what, " of cuBLASLt in rows at multiples of 16 bytes, found ",
                      stride_bytes, " bytes from row to row at ",
                      reinterpret_cast<uintptr_t>(pointer) % kPointerAlignBytes,
                      " bytes behind one");
}

std::string Fp8Problem(const CublasLtProduct& p) {
  if (p.outputs % kFp8ScaleBlock != 0 || p.inputs % kFp8ScaleBlock != 0) {
    return absl::StrCat("expected fp8 outputs and inputs in multiples of 128 for cuBLASLt, found ",
                        p.outputs, " and ", p.inputs);
  }
  if (p.rows % kRowsMultiple != 0) {
    return absl::StrCat("expected fp8 rows in a multiple of 4 for cuBLASLt, found ", p.rows);
  }
  if (p.x_scales == nullptr || p.w_scales == nullptr) {
    return "expected scales of weights and inputs for an fp8 product of cuBLASLt, found none";
  }
  const std::string problem = AlignmentProblem("scales of inputs", p.x_scales, 0);
  return problem.empty() ? AlignmentProblem("scales of weights", p.w_scales, 0) : problem;
}

// Places in the scratch, in bytes.
struct Scratch {
  int64_t weights = 0, w_scales, x, x_scales, x_scales_plain, library, bytes;
};

// Nothing for a format that never goes to the library, or for too few rows.
bool HasScratch(const DeviceMatrix& w, int64_t rows) {
  return (w.format.kind == WeightKind::kBf16 || w.format.kind == WeightKind::kFp8) &&
         w.batch == 1 && rows >= kCublasLtRowsMin;
}

Scratch ScratchOf(const DeviceMatrix& w, int64_t rows) {
  const bool fp8 = w.format.kind == WeightKind::kFp8;
  const int64_t blocks = CublasLtBlocks(w.inputs), k_padded = RoundUpTo(w.inputs, kInputsMultiple);
  const auto behind = [](int64_t at, int64_t bytes) { return RoundUpTo(at + bytes, kAlignBytes); };
  Scratch s;
  s.w_scales = behind(0, w.outputs * w.inputs * ValueBytes(w.format.kind));
  s.x = behind(s.w_scales, fp8 ? RoundUpTo(w.outputs, 128) / 128 * blocks * 4 : 0);
  s.x_scales_plain = behind(s.x, fp8 ? rows * k_padded : 0);
  s.x_scales = behind(s.x_scales_plain, fp8 ? rows * k_padded / 128 * 4 : 0);
  s.library = behind(s.x_scales, fp8 ? rows * k_padded / 128 * 4 : 0);
  s.bytes = s.library + static_cast<int64_t>(kCublasLtWorkspaceBytes);
  return s;
}

CublasLtProduct ProductOf(const LinearArgs& args, const Scratch& s) {
  auto* const scratch = static_cast<std::byte*>(args.workspace);
  const bool fp8 = args.w.format.kind == WeightKind::kFp8;
  CublasLtProduct p;
  p.kind = args.w.format.kind;
  p.outputs = args.w.outputs;
  p.inputs = args.w.inputs;
  p.rows = args.rows;
  p.w = scratch;
  p.w_scales = fp8 ? reinterpret_cast<const float*>(scratch + s.w_scales) : nullptr;
  p.x = fp8 ? scratch + s.x : args.x;
  if (args.x_fp8.codes != nullptr) p.x = args.x_fp8.codes;
  p.x_stride = fp8 ? args.w.inputs : args.x_stride;
  p.x_scales = fp8 ? reinterpret_cast<const float*>(scratch + s.x_scales) : nullptr;
  p.y = args.y;
  p.y_stride = args.y_stride;
  p.y_storage = args.y_storage;
  p.workspace = scratch + s.library;
  p.workspace_bytes = kCublasLtWorkspaceBytes;
  return p;
}

}  // namespace

std::string CublasLtProblem(const CublasLtProduct& p) {
  if (p.kind != WeightKind::kBf16 && p.kind != WeightKind::kFp8) {
    return "expected bf16 or fp8 weights for cuBLASLt";
  }
  if (p.workspace == nullptr || p.workspace_bytes < kCublasLtWorkspaceBytes) {
    return absl::StrCat("expected a workspace of ", kCublasLtWorkspaceBytes,
                        " bytes for cuBLASLt, found ", p.workspace_bytes);
  }
  const int64_t bytes = ValueBytes(p.kind);
  std::string problem = AlignmentProblem("inputs", p.x, p.x_stride * bytes);
  if (problem.empty()) problem = AlignmentProblem("weights", p.w, p.inputs * bytes);
  if (problem.empty()) {
    problem = AlignmentProblem("outputs", p.y, p.y_stride * BytesOf(p.y_storage));
  }
  if (problem.empty() && p.kind == WeightKind::kFp8) problem = Fp8Problem(p);
  return problem;
}

bool TakesCublasLt(const LinearArgs& args) {
  if (!args.allow_batch_dependent || args.kernels == Kernels::kReference ||
      !HasScratch(args.w, args.rows)) {
    return false;
  }
  // The library has block-scaled fp8 on Hopper alone.
  if (args.w.format.kind == WeightKind::kFp8 && args.kernels != Kernels::kHopper) return false;
  return CublasLtProblem(ProductOf(args, ScratchOf(args.w, args.rows))).empty() && HasCublasLt();
}

size_t CublasLtScratchBytes(const DeviceMatrix& w, int64_t rows) {
  return HasScratch(w, rows) ? static_cast<size_t>(ScratchOf(w, rows).bytes) : 0;
}

void LinearCublasLt(const LinearArgs& args, Stream stream) {
  TANDEM_CHECK_GE(args.workspace_bytes, CublasLtScratchBytes(args.w, args.rows));
  const Scratch s = ScratchOf(args.w, args.rows);
  auto* const scratch = static_cast<std::byte*>(args.workspace);
  PlainWeights(args.w, scratch, stream);
  if (args.w.format.kind == WeightKind::kFp8) {
    auto* const scales = reinterpret_cast<float*>(scratch + s.x_scales_plain);
    PlainWeightScales(args.w, reinterpret_cast<float*>(scratch + s.w_scales), stream);
    const float* x_scales = args.x_fp8.scales;
    if (args.x_fp8.codes == nullptr) {
      QuantizeFp8Rows(static_cast<const uint16_t*>(args.x), args.x_stride, args.w.inputs, args.rows,
                      reinterpret_cast<uint8_t*>(scratch + s.x), scales, stream);
      x_scales = scales;
    }
    TransposeScales(x_scales, args.rows, args.w.inputs / 128,
                    reinterpret_cast<float*>(scratch + s.x_scales), stream);
  }
  const absl::Status status = MultiplyByCublasLt(ProductOf(args, s), stream);
  if (!status.ok()) base::CheckFailed(__FILE__, __LINE__, std::string(status.message()));
}

}  // namespace tandem::gpu_worker::cuda
