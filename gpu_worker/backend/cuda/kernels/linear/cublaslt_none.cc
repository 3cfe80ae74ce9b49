// The emulator has no cuBLASLt.
#include "gpu_worker/backend/cuda/kernels/linear/cublaslt.h"

namespace tandem::gpu_worker::cuda {

bool HasCublasLt() { return false; }

absl::Status MultiplyByCublasLt(const CublasLtProduct& product, Stream) {
  const std::string problem = CublasLtProblem(product);
  if (!problem.empty()) return absl::InvalidArgumentError(problem);
  return absl::UnavailableError("expected cuBLASLt, found an emulated device");
}

}  // namespace tandem::gpu_worker::cuda
