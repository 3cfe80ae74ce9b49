// Which backend computes, by the worker's options: the host's, or CUDA's where the build has it.
#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/server/options.h"
#include "lib/model/model_weights.h"

namespace tandem::gpu_worker {

// `linear`: the format of every linear layer. Errors are those of MakeHostBackend and
// MakeCudaBackend; FAILED_PRECONDITION where --backend cuda is not in this build.
absl::StatusOr<std::unique_ptr<Backend>> MakeBackend(const WorkerOptions& options,
                                                     const ModelWeights& weights,
                                                     const std::vector<AssignedModule>& linear);

// Threads of the host backend, of loading on CUDA.
int ThreadsOf(const WorkerOptions& options);

}  // namespace tandem::gpu_worker
