// Chooses the kernels of a decode step.
#include "gpu_worker/backend/cuda/kernels/attention/attention.h"
#include "gpu_worker/backend/cuda/kernels/attention/decode_kernels.h"
#include "gpu_worker/backend/cuda/kernels/attention/hopper_decode.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {
namespace {

using PortableDecode = void (*)(const MlaDecodeArgs&, Stream);

PortableDecode PortableFor(const MlaShape& shape, Storage storage) {
  if (storage != Storage::kBf16) return nullptr;
  if (shape.latent == 512 && shape.rope == 64) return PortableMlaDecode512;
  if (shape.latent == 32 && shape.rope == 16) return PortableMlaDecodeSmall;
  if (shape.latent == 64 && shape.rope == 64) return PortableMlaDecodeSmall;
  return nullptr;
}

}  // namespace

bool HasPortableDecode(const MlaShape& shape, Storage storage) {
  return PortableFor(shape, storage) != nullptr;
}

void MlaDecode(const MlaDecodeArgs& args, Stream stream) {
  if (args.rows == 0) return;
  if (args.kernels == Kernels::kReference) return ReferenceMlaDecode(args, stream);
  const bool hopper = args.kernels == Kernels::kHopper && HasHopperDecode(args.shape, args.storage);
  const PortableDecode decode = hopper ? HopperMlaDecode : PortableFor(args.shape, args.storage);
  TANDEM_CHECK(decode != nullptr);
  TANDEM_CHECK(args.plan != nullptr);
  TANDEM_CHECK_GE(args.multiprocessors, 1);
  decode(args, stream);
  CombineMlaDecode(args, stream);
}

}  // namespace tandem::gpu_worker::cuda
