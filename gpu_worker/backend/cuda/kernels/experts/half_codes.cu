#include "gpu_worker/backend/cuda/kernels/experts/panel_codes.h"

namespace tandem::gpu_worker::cuda::experts {

bool LaunchHalfCodes(DType type, const ProductWork& work, int64_t tile_count, Stream stream) {
  return LaunchCodes(HalfTypes(), type, work, tile_count, stream);
}

}  // namespace tandem::gpu_worker::cuda::experts
