#include "gpu_worker/backend/cuda/kernels/experts/panel_floats.h"

namespace tandem::gpu_worker::cuda::experts {

bool LaunchExactHalf(DType type, const ProductWork& work, int64_t tile_count, Stream stream) {
  return LaunchExact(HalfTypes(), type, work, tile_count, stream) ||
         LaunchExact(FloatTypes(), type, work, tile_count, stream) ||
         LaunchExact(Types<DType::kF32>(), type, work, tile_count, stream);
}

}  // namespace tandem::gpu_worker::cuda::experts
