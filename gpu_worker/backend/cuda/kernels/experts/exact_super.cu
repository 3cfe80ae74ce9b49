#include "gpu_worker/backend/cuda/kernels/experts/panel_floats.h"

namespace tandem::gpu_worker::cuda::experts {

bool LaunchExactSuper(DType type, const ProductWork& work, int64_t tile_count, Stream stream) {
  switch (type) {
    case DType::kQ2_K:
      LaunchExact<DType::kQ2_K>(work, tile_count, stream);
      return true;
    case DType::kQ3_K:
      LaunchExact<DType::kQ3_K>(work, tile_count, stream);
      return true;
    case DType::kQ4_K:
      LaunchExact<DType::kQ4_K>(work, tile_count, stream);
      return true;
    case DType::kQ5_K:
      LaunchExact<DType::kQ5_K>(work, tile_count, stream);
      return true;
    case DType::kQ6_K:
      LaunchExact<DType::kQ6_K>(work, tile_count, stream);
      return true;
    case DType::kIQ4_XS:
      LaunchExact<DType::kIQ4_XS>(work, tile_count, stream);
      return true;
    default:
      return false;
  }
}

}  // namespace tandem::gpu_worker::cuda::experts
