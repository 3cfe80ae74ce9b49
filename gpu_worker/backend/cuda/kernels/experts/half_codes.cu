#include "gpu_worker/backend/cuda/kernels/experts/panel_codes.h"

namespace tandem::gpu_worker::cuda::experts {

bool LaunchHalfCodes(DType type, const ProductWork& work, int64_t tile_count, Stream stream) {
  switch (type) {
    case DType::kQ8_0:
      LaunchCodes<DType::kQ8_0>(work, tile_count, stream);
      return true;
    case DType::kQ4_0:
      LaunchCodes<DType::kQ4_0>(work, tile_count, stream);
      return true;
    case DType::kQ4_1:
      LaunchCodes<DType::kQ4_1>(work, tile_count, stream);
      return true;
    case DType::kQ5_0:
      LaunchCodes<DType::kQ5_0>(work, tile_count, stream);
      return true;
    case DType::kQ5_1:
      LaunchCodes<DType::kQ5_1>(work, tile_count, stream);
      return true;
    case DType::kIQ4_NL:
      LaunchCodes<DType::kIQ4_NL>(work, tile_count, stream);
      return true;
    default:
      return false;
  }
}

}  // namespace tandem::gpu_worker::cuda::experts
