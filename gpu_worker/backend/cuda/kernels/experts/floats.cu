#include "gpu_worker/backend/cuda/kernels/experts/panel_floats.h"

namespace tandem::gpu_worker::cuda::experts {

bool LaunchFloats(DType type, const ProductWork& work, int64_t tile_count, Stream stream) {
  switch (type) {
    case DType::kBF16:
      LaunchChains<DType::kBF16>(work, tile_count, stream);
      return true;
    case DType::kF16:
      LaunchChains<DType::kF16>(work, tile_count, stream);
      return true;
    case DType::kF8E4M3:
      LaunchChains<DType::kF8E4M3>(work, tile_count, stream);
      return true;
    default:
      return false;
  }
}

}  // namespace tandem::gpu_worker::cuda::experts
