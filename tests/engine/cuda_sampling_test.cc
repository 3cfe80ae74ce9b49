// Tokens and log probabilities of a whole engine on the CUDA backend: those of its whole rows, from
// one rank and from two.
#include <gtest/gtest.h>

#include "gpu_worker/backend/cuda/cuda_backend.h"
#include "gpu_worker/backend/shard/in_process_group.h"
#include "gpu_worker/backend/shard/sharded_backend.h"
#include "gpu_worker/backend/shard/staged_collective.h"
#include "lib/base/check.h"
#include "tests/engine/sampling_check.h"

namespace tandem::gpu_worker {
namespace {

constexpr int64_t kRowsMax = 64;

cuda::CudaBackendOptions DeviceOptions() {
  cuda::CudaBackendOptions options;
  options.kv_pages = 16;
  options.rows_max = kRowsMax;
  options.kernels = cuda::Kernels::kReference;  // what samples is the same with all of them
  return options;
}

template <typename T>
T Value(absl::StatusOr<T> made) {
  if (!made.ok()) base::CheckFailed(__FILE__, __LINE__, made.status().ToString());
  return *std::move(made);
}

HarnessOptions Options() {
  HarnessOptions options;
  options.precision = Precision::kBf16;
  options.kv_pages = 16;
  options.rows_max = kRowsMax;
  return options;
}

TEST(CudaSampling, AnswersAreThoseOfWholeRows) {
  HarnessOptions options = Options();
  options.make_backend = [](const ModelWeights& weights) {
    return Value(cuda::MakeCudaBackend(weights, DeviceOptions()));
  };
  ExpectAnswersOfWholeRows(LoadGolden("v3").weights, options);
}

TEST(CudaSampling, AnswersOfTwoRanksAreThoseOfWholeRows) {
  HarnessOptions options = Options();
  options.make_backend = [](const ModelWeights& weights) -> std::unique_ptr<Backend> {
    const ShardPlan plan = Value(ShardPlan::Make(weights.config, 2));
    const auto group = InProcessGroup::Make(2, absl::Seconds(60));
    ShardedOptions sharded;
    sharded.ranks = 2;
    return Value(ShardedBackend::Make(
        weights.config,
        [&](int rank) -> absl::StatusOr<RankParts> {
          cuda::CudaBackendOptions device = DeviceOptions();
          device.graphs = false;  // gathers go through the host
          RankParts parts;
          parts.collective = Value(cuda::MakeStagedCollective(group->Rank(rank), kRowsMax * 4096));
          parts.backend =
              Value(cuda::MakeCudaRank(weights, device, plan, rank, parts.collective.get()));
          return parts;
        },
        sharded));
  };
  ExpectAnswersOfWholeRows(LoadGolden("v3").weights, options);
}

}  // namespace
}  // namespace tandem::gpu_worker
