#include "gpu_worker/backend/cuda/kernels/experts/panel_floats.h"

namespace tandem::gpu_worker::cuda::experts {

bool LaunchExactHalf(DType type, const ProductWork& work, int64_t tile_count, Stream stream) {
  switch (type) {
    case DType::kQ8_0:
      LaunchExact<DType::kQ8_0>(work, tile_count, stream);
      return true;
    case DType::kQ4_0:
      LaunchExact<DType::kQ4_0>(work, tile_count, stream);
      return true;
    case DType::kQ4_1:
      LaunchExact<DType::kQ4_1>(work, tile_count, stream);
      return true;
    case DType::kQ5_0:
      LaunchExact<DType::kQ5_0>(work, tile_count, stream);
      return true;
    case DType::kQ5_1:
      LaunchExact<DType::kQ5_1>(work, tile_count, stream);
      return true;
    case DType::kIQ4_NL:
      LaunchExact<DType::kIQ4_NL>(work, tile_count, stream);
      return true;
    case DType::kF32:
      LaunchExact<DType::kF32>(work, tile_count, stream);
      return true;
    case DType::kBF16:
      LaunchExact<DType::kBF16>(work, tile_count, stream);
      return true;
    case DType::kF16:
      LaunchExact<DType::kF16>(work, tile_count, stream);
      return true;
    case DType::kF8E4M3:
      LaunchExact<DType::kF8E4M3>(work, tile_count, stream);
      return true;
    default:
      return false;
  }
}

}  // namespace tandem::gpu_worker::cuda::experts
