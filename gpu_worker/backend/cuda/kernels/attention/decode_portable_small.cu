// The portable decode kernel for the small checkpoints of the tests: 32 + 16 and 64 + 64.
#include "gpu_worker/backend/cuda/kernels/attention/decode_kernels.h"
#include "gpu_worker/backend/cuda/kernels/attention/decode_portable.h"

namespace tandem::gpu_worker::cuda {

void PortableMlaDecodeSmall(const MlaDecodeArgs& args, Stream stream) {
  if (args.shape.latent == 32) {
    LaunchPortableDecode<32, 16>(args, stream);
  } else {
    LaunchPortableDecode<64, 64>(args, stream);
  }
}

}  // namespace tandem::gpu_worker::cuda
