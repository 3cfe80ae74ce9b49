// Rows of activations in the forms that expert kernels read: a warp 32 columns, with the roundings
// of lib/kernels/body/activation_rows.inl.
#include "gpu_worker/backend/cuda/kernels/experts/expert_kernels.h"
#include "gpu_worker/backend/cuda/kernels/rows/exact_exp.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "gpu_worker/backend/cuda/simt/numbers.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

using experts::kWholeMagic;
using experts::kWholeMagicBits;

constexpr int kWarps = 8;  // a record
static_assert(kWarps * kWarpThreads == kRecordCols);

constexpr uint32_t kInfinityBits = 0x7f800000;
// Blocks below 2^-110 become zeros.
constexpr uint32_t kTinyBits = (127 - 110) << 23;

// Of the sixteen lanes of a half warp.
__device__ __forceinline__ int32_t HalfWarpSum(int32_t value) {
  for (int distance = 8; distance > 0; distance /= 2) {
    value += __shfl_xor_sync(kFullWarp, value, distance);
  }
  return value;
}

// `value`: that of the warp's column LaneId() of block `b` of a record.
__device__ __forceinline__ void StoreQuantized(float value, int b, std::byte* record) {
  const uint32_t largest = __reduce_max_sync(kFullWarp, __float_as_uint(value) & 0x7fffffffu);
  float scale = 0.0f, inverse = 0.0f;
  if (largest >= kInfinityBits) {
    scale = __uint_as_float(0x7fc00000u);  // spoils the whole output, visibly
  } else if (largest >= kTinyBits) {
    scale = __uint_as_float(largest) / 127.0f;
    inverse = 127.0f / __uint_as_float(largest);
  }
  int32_t code = 0;
  if (inverse > 0.0f) {
    const float rounded = __fadd_rn(__fmul_rn(value, inverse), kWholeMagic);
    code = static_cast<int32_t>(__float_as_uint(rounded)) - kWholeMagicBits;
  }
  const int32_t sum = HalfWarpSum(code);
  auto* const bytes = reinterpret_cast<int8_t*>(record);
  bytes[32 * b + LaneId()] = static_cast<int8_t>(code);
  if (LaneId() == 0) *reinterpret_cast<float*>(record + kRecordScales + 4 * b) = scale;
  if (LaneId() % 16 == 0) {
    *reinterpret_cast<int16_t*>(record + kRecordSums + 4 * b + LaneId() / 8) =
        static_cast<int16_t>(sum);
  }
}

// A block stores record blockIdx.y of row blockIdx.x, value_of(column) being the row's values.
template <typename ValueOf>
__device__ __forceinline__ void StoreForms(const ExpertRowForms& out, int64_t cols,
                                           ValueOf value_of) {
  const int64_t row = blockIdx.x, record = blockIdx.y, records = gridDim.y;
  const int64_t column = record * kRecordCols + threadIdx.x;
  const float value = column < cols ? value_of(row, column) : 0.0f;
  if (out.quantized != nullptr) {
    StoreQuantized(value, WarpId(), out.quantized + (row * records + record) * kRecordBytes);
  }
  if (out.floats == nullptr) return;
  const int64_t at = column - LaneId() + LaneId() % 2 * 16 + LaneId() / 2;
  out.floats[row * records * kRecordCols + at] = out.round_to_bf16 ? RoundToBf16(value) : value;
}

__global__ void __launch_bounds__(kRecordCols) PrepareExpertRowsKernel(const ExpertRowsArgs a) {
  StoreForms(a.out, a.cols, [&](int64_t row, int64_t column) {
    const int64_t at = row * a.cols + column;
    return a.x_is_f32 ? static_cast<const float*>(a.x)[at]
                      : FromBf16(static_cast<const Bf16*>(a.x)[at]);
  });
}

__global__ void __launch_bounds__(kRecordCols) GateExpertRowsKernel(const GatedRowsArgs a) {
  StoreForms(a.out, a.cols, [&](int64_t row, int64_t column) {
    const int64_t at = row * a.stride + column;
    return ExactSwiGlu(a.gate[at], a.up[at]);
  });
}

dim3 GridOf(int64_t rows, int64_t cols, const ExpertRowForms& out) {
  TANDEM_CHECK_LE(rows, int64_t{0x7fffffff});
  TANDEM_CHECK_LE(ExpertRecords(cols), 65535);
  TANDEM_CHECK(out.quantized == nullptr || cols % 32 == 0);
  return {static_cast<unsigned>(rows), static_cast<unsigned>(ExpertRecords(cols))};
}

}  // namespace

void PrepareExpertRows(const ExpertRowsArgs& args, Stream stream) {
  if (args.rows == 0) return;
  Launch(PrepareExpertRowsKernel, GridOf(args.rows, args.cols, args.out), kRecordCols, 0, stream,
         args);
}

void GateExpertRows(const GatedRowsArgs& args, Stream stream) {
  if (args.rows == 0) return;
  Launch(GateExpertRowsKernel, GridOf(args.rows, args.cols, args.out), kRecordCols, 0, stream,
         args);
}

}  // namespace tandem::gpu_worker::cuda
