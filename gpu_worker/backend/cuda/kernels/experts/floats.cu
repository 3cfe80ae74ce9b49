#include "gpu_worker/backend/cuda/kernels/experts/panel_floats.h"

namespace tandem::gpu_worker::cuda::experts {

bool LaunchFloats(DType type, const ProductWork& work, int64_t tile_count, Stream stream) {
  return LaunchChains(FloatTypes(), type, work, tile_count, stream);
}

}  // namespace tandem::gpu_worker::cuda::experts
