#include "gpu_worker/backend/cuda/kernels/attention/attention.h"
#include "gpu_worker/backend/cuda/kernels/attention/decode_kernels.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {

bool HasPortableDecode(const MlaShape&, Storage) { return false; }

void MlaDecode(const MlaDecodeArgs& args, Stream stream) {
  if (args.rows == 0) return;
  TANDEM_CHECK(args.kernels == Kernels::kReference);
  ReferenceMlaDecode(args, stream);
}

}  // namespace tandem::gpu_worker::cuda
