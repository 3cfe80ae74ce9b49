#include "gpu_worker/backend/cuda/kernels/experts/panel_floats.h"

namespace tandem::gpu_worker::cuda::experts {

bool LaunchExactList(DType type, const ProductWork& work, int64_t tile_count, Stream stream) {
  switch (type) {
    case DType::kIQ1_S:
      LaunchExact<DType::kIQ1_S>(work, tile_count, stream);
      return true;
    case DType::kIQ1_M:
      LaunchExact<DType::kIQ1_M>(work, tile_count, stream);
      return true;
    case DType::kIQ2_XXS:
      LaunchExact<DType::kIQ2_XXS>(work, tile_count, stream);
      return true;
    case DType::kIQ2_XS:
      LaunchExact<DType::kIQ2_XS>(work, tile_count, stream);
      return true;
    case DType::kIQ2_S:
      LaunchExact<DType::kIQ2_S>(work, tile_count, stream);
      return true;
    case DType::kIQ3_XXS:
      LaunchExact<DType::kIQ3_XXS>(work, tile_count, stream);
      return true;
    case DType::kIQ3_S:
      LaunchExact<DType::kIQ3_S>(work, tile_count, stream);
      return true;
    default:
      return false;
  }
}

}  // namespace tandem::gpu_worker::cuda::experts
