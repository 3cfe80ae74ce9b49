#include "gpu_worker/backend/cuda/kernels/columns/columns.h"
#include "gpu_worker/backend/cuda/simt/launch.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr unsigned kThreads = 256;

template <typename T>
__global__ void CopyColumnsKernel(const T* from, int64_t from_stride, T* to, int64_t to_stride,
                                  int64_t rows, int64_t cols) {
  const int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (i >= rows * cols) return;
  to[i / cols * to_stride + i % cols] = from[i / cols * from_stride + i % cols];
}

template <typename T>
void CopyAs(const CopyColumnsArgs& a, Stream stream) {
  const auto blocks = static_cast<unsigned>((a.rows * a.cols + kThreads - 1) / kThreads);
  Launch(CopyColumnsKernel<T>, blocks, kThreads, 0, stream, static_cast<const T*>(a.from),
         a.from_stride, static_cast<T*>(a.to), a.to_stride, a.rows, a.cols);
}

}  // namespace

void CopyColumns(const CopyColumnsArgs& args, Stream stream) {
  if (args.rows == 0 || args.cols == 0) return;
  TANDEM_CHECK(args.value_bytes == 2 || args.value_bytes == 4);
  if (args.value_bytes == 2) {
    CopyAs<uint16_t>(args, stream);
  } else {
    CopyAs<uint32_t>(args, stream);
  }
}

}  // namespace tandem::gpu_worker::cuda
