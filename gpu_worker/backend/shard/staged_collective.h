// StagedCollective: gathers device memory of ranks in one process through pinned host memory. It
// needs nothing but copies, so it runs on the emulator and with several ranks on one GPU, which
// NCCL refuses: the way to test a sharded CUDA backend where there is one device or none. It waits
// for the stream in every call, so it cannot be captured in a graph; several GPUs use NCCL.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/shard/collective.h"

namespace tandem::gpu_worker::cuda {

// `host`: the rank's member of a group of threads. part_bytes_max: of one gather, one rank's part.
// RESOURCE_EXHAUSTED without pinned memory for (ranks + 1) parts.
absl::StatusOr<std::unique_ptr<Collective>> MakeStagedCollective(std::unique_ptr<Collective> host,
                                                                 size_t part_bytes_max);

}  // namespace tandem::gpu_worker::cuda
