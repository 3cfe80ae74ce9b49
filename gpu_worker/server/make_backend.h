// Which backend computes, by the worker's options: the host's, or CUDA's where the build has it.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/experts/local_experts.h"
#include "gpu_worker/server/options.h"
#include "lib/model/model_weights.h"

namespace tandem::gpu_worker {

// `linear`: the format of every linear layer. Errors are those of MakeHostBackend and
// MakeCudaBackend; FAILED_PRECONDITION where --backend cuda is not in this build.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const WorkerOptions& options,
                                                     const ModelWeights& weights,
                                                     const std::vector<AssignedModule>& linear);

// The device that computes the worker's own experts, with room for steps of this worker's size:
// none with --backend host, whose processor does it. With several ranks it is the first one's.
// Made before the backend, which plans its KV cache with the memory that is left.
LocalExperts::MakeBackend MakeExpertBackend(const WorkerOptions& options);

// Threads of the host backend, of loading on CUDA.
int ThreadsOf(const WorkerOptions& options);

}  // namespace tandem::gpu_worker
