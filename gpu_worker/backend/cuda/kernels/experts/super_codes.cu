#include "gpu_worker/backend/cuda/kernels/experts/panel_codes.h"

namespace tandem::gpu_worker::cuda::experts {

bool LaunchSuperCodes(DType type, const ProductWork& work, int64_t tile_count, Stream stream) {
  switch (type) {
    case DType::kQ2_K:
      LaunchCodes<DType::kQ2_K>(work, tile_count, stream);
      return true;
    case DType::kQ3_K:
      LaunchCodes<DType::kQ3_K>(work, tile_count, stream);
      return true;
    case DType::kQ4_K:
      LaunchCodes<DType::kQ4_K>(work, tile_count, stream);
      return true;
    case DType::kQ5_K:
      LaunchCodes<DType::kQ5_K>(work, tile_count, stream);
      return true;
    case DType::kQ6_K:
      LaunchCodes<DType::kQ6_K>(work, tile_count, stream);
      return true;
    case DType::kIQ4_XS:
      LaunchCodes<DType::kIQ4_XS>(work, tile_count, stream);
      return true;
    default:
      return false;
  }
}

}  // namespace tandem::gpu_worker::cuda::experts
