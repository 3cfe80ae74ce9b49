// The portable decode kernel for DeepSeek V2, V3 and R1, Kimi K2 and the quiz model: 512 + 64.
#include "gpu_worker/backend/cuda/kernels/attention/decode_kernels.h"
#include "gpu_worker/backend/cuda/kernels/attention/decode_portable.h"

namespace tandem::gpu_worker::cuda {

void PortableMlaDecode512(const MlaDecodeArgs& args, Stream stream) {
  LaunchPortableDecode<512, 64>(args, stream);
}

}  // namespace tandem::gpu_worker::cuda
