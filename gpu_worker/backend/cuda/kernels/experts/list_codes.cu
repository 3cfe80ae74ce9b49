#include "gpu_worker/backend/cuda/kernels/experts/panel_codes.h"

namespace tandem::gpu_worker::cuda::experts {

bool LaunchListCodes(DType type, const ProductWork& work, int64_t tile_count, Stream stream) {
  switch (type) {
    case DType::kIQ1_S:
      LaunchCodes<DType::kIQ1_S>(work, tile_count, stream);
      return true;
    case DType::kIQ1_M:
      LaunchCodes<DType::kIQ1_M>(work, tile_count, stream);
      return true;
    case DType::kIQ2_XXS:
      LaunchCodes<DType::kIQ2_XXS>(work, tile_count, stream);
      return true;
    case DType::kIQ2_XS:
      LaunchCodes<DType::kIQ2_XS>(work, tile_count, stream);
      return true;
    case DType::kIQ2_S:
      LaunchCodes<DType::kIQ2_S>(work, tile_count, stream);
      return true;
    case DType::kIQ3_XXS:
      LaunchCodes<DType::kIQ3_XXS>(work, tile_count, stream);
      return true;
    case DType::kIQ3_S:
      LaunchCodes<DType::kIQ3_S>(work, tile_count, stream);
      return true;
    default:
      return false;
  }
}

}  // namespace tandem::gpu_worker::cuda::experts
