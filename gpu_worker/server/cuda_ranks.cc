#include "gpu_worker/server/cuda_ranks.h"

#include <algorithm>
#include <utility>

#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/shard/nccl_group.h"
#include "gpu_worker/backend/shard/shard_plan.h"
#include "gpu_worker/backend/shard/sharded_backend.h"
#include "lib/base/status_macros.h"

namespace tandem::gpu_worker {
namespace {

cuda::CudaBackendOptions OnDevice(cuda::CudaBackendOptions options, int rank) {
  options.device += rank;
  return options;
}

// The same number on all ranks: a page is a page of each.
absl::StatusOr<int64_t> KvPagesOfAll(const ModelConfig& config,
                                     const cuda::CudaBackendOptions& options,
                                     const ShardPlan& plan) {
  int64_t fewest = 0;
  for (int rank = 0; rank < plan.ranks(); ++rank) {
    TANDEM_ASSIGN_OR_RETURN(const int64_t pages,
                            cuda::CudaKvPages(config, OnDevice(options, rank), plan, rank));
    fewest = rank == 0 ? pages : std::min(fewest, pages);
  }
  return fewest;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Backend>> MakeCudaRanks(const ModelWeights& weights,
                                                       const cuda::CudaBackendOptions& options,
                                                       int ranks, absl::Duration wait_max) {
  TANDEM_ASSIGN_OR_RETURN(const ShardPlan plan, ShardPlan::Make(weights.config, ranks));
  cuda::CudaBackendOptions all = options;
  TANDEM_ASSIGN_OR_RETURN(all.kv_pages, KvPagesOfAll(weights.config, options, plan));
  all.pack_threads = std::max(1, options.pack_threads / ranks);
  TANDEM_ASSIGN_OR_RETURN(const auto group, NcclGroup::Make(ranks, wait_max));
  ShardedOptions sharded;
  sharded.ranks = ranks;
  // A rank that waits for others is back after wait_max, and a call has a few gathers: who takes
  // longer than that twice is stuck alone.
  sharded.call_max = 2 * wait_max;
  return ShardedBackend::Make(
      weights.config,
      [&](int rank) -> absl::StatusOr<RankParts> {
        TANDEM_RETURN_IF_ERROR(cuda::UseDevice(all.device + rank).status());
        RankParts parts;
        TANDEM_ASSIGN_OR_RETURN(parts.collective, group->Join(rank));
        TANDEM_ASSIGN_OR_RETURN(
            parts.backend,
            cuda::MakeCudaRank(weights, OnDevice(all, rank), plan, rank, parts.collective.get()));
        return parts;
      },
      sharded);
}

}  // namespace tandem::gpu_worker
