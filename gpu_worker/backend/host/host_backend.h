// HostBackend: the forward pass on CPUs. It lets a cluster run where there is no GPU, and it is the
// oracle of the CUDA kernels: the same roundings in the same places, every sum in one fixed order.
//
// bf16 precision: weights bf16; x, norm outputs, linear outputs, queries, cached keys and attention
// outputs are rounded to bf16; sums, softmax, router and logits are f32. f32 precision: nothing is
// rounded below f32.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/host/linear_format.h"
#include "gpu_worker/backend/shard/collective.h"
#include "gpu_worker/backend/shard/shard_plan.h"
#include "lib/model/model_weights.h"

namespace tandem::gpu_worker {

struct HostBackendOptions {
  Precision precision = Precision::kBf16;
  AttentionKernel attention = AttentionKernel::kFlash;
  int64_t kv_pages = 64;
  int64_t rows_max = 512;
  int threads = 1;      // of all ranks together, but at least one each
  LinearFormat linear;  // of every linear layer but the router; needs bf16 unless native
  // Of single layers, by Hugging Face module path ("model.layers.3.self_attn.q_a_proj"); others
  // have `linear`.
  std::map<std::string, LinearFormat> linear_of = {};
  // Ranks that share the work as several GPUs would, each on a thread with its own part of the
  // weights and its own KV cache. The bits are those of one rank.
  int ranks = 1;
  absl::Duration rank_wait_max = absl::Seconds(60);  // for another rank, in one call

  LinearFormat FormatOf(const std::string& module) const {
    const auto found = linear_of.find(module);
    return found == linear_of.end() ? linear : found->second;
  }
};

// Converts the weights of all layers but the routed experts; `weights` is not needed afterwards.
// Logs progress, and what each rank holds. INVALID_ARGUMENT when the heads cannot be shared out
// over the ranks. UNIMPLEMENTED when a layer lacks what this backend needs, or the processor has no
// bf16 matmul of oneDNN's and that was asked for.
absl::StatusOr<std::unique_ptr<Backend>> MakeHostBackend(const ModelWeights& weights,
                                                         const HostBackendOptions& options);

// One rank of `plan`, as MakeHostBackend puts several together: a RankParts backend that meets the
// others through `collective`, which must outlive it. Null: the only rank.
absl::StatusOr<std::unique_ptr<Backend>> MakeHostRank(const ModelWeights& weights,
                                                      const HostBackendOptions& options,
                                                      const ShardPlan& plan, int rank,
                                                      Collective* collective);

}  // namespace tandem::gpu_worker
