#include "gpu_worker/backend/cuda/kernels/linear/portable_kernel.h"

namespace tandem::gpu_worker::cuda::portable {

void RunBf16(const KernelArgs& args, int64_t batch, Stream stream) {
  Run<WeightKind::kBf16>(args, batch, stream);
}

}  // namespace tandem::gpu_worker::cuda::portable
