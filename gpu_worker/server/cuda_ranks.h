// Several GPUs as one backend: a thread and a device a rank, gathers through NCCL.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/cuda_backend.h"
#include "lib/model/model_weights.h"

namespace tandem::gpu_worker {

// Ranks on devices options.device, options.device + 1, and so on; options.kv_pages = 0: what fits
// on each of them. Errors are those of ShardPlan::Make, MakeCudaRank and NcclGroup::Make.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaRanks(const ModelWeights& weights,
                                                       const cuda::CudaBackendOptions& options,
                                                       int ranks, absl::Duration wait_max);

}  // namespace tandem::gpu_worker
