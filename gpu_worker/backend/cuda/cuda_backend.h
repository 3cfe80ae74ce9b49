// CudaBackend: the forward pass on one NVIDIA GPU. Same roundings in the same places as the host
// backend (host/host_backend.h), which its tests compare it with; sums run in the kernels' order.
//
// Everything is allocated at start, from a plan that says in one sentence what does not fit. Work
// is enqueued on one stream; copies from and to the host run on another, under the shared expert.
// Steps of generated rows alone are padded to a few sizes and replayed as CUDA graphs between two
// exchanges with the experts.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/cuda_weights.h"
#include "gpu_worker/backend/cuda/kernels/linear/linear.h"
#include "gpu_worker/backend/shard/collective.h"
#include "gpu_worker/backend/shard/shard_plan.h"
#include "lib/model/model_weights.h"

namespace tandem::gpu_worker::cuda {

struct CudaBackendOptions {
  CudaFormats formats;
  Kernels kernels = Kernels::kPortable;
  int64_t kv_pages = 0;  // 0: what is left of the device's memory, at most for the model's context
  int64_t rows_max = 512;
  int device = 0;
  int pack_threads = 1;  // while loading
  bool graphs = true;
};

// NOT_FOUND where there is no such device; RESOURCE_EXHAUSTED where the plan does not fit, with
// what it needs and what is free; INVALID_ARGUMENT for formats and kernels that exclude each other.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaBackend(const ModelWeights& weights,
                                                         const CudaBackendOptions& options);

// One rank of several, as ShardedBackend wants it, on the calling thread's device options.device.
// `collective` outlives it and gathers device memory in stream order; with one that cannot be
// captured, options.graphs is to be false. kv_pages must be given, the same on all ranks:
// CudaKvPages.
absl::StatusOr<std::unique_ptr<Backend>> MakeCudaRank(const ModelWeights& weights,
                                                      const CudaBackendOptions& options,
                                                      const ShardPlan& plan, int rank,
                                                      Collective* collective);

// What options.kv_pages = 0 comes to on one rank's device, or options.kv_pages where it fits.
// Errors are those of MakeCudaBackend.
absl::StatusOr<int64_t> CudaKvPages(const ModelConfig& config, const CudaBackendOptions& options,
                                    const ShardPlan& plan, int rank);

}  // namespace tandem::gpu_worker::cuda
