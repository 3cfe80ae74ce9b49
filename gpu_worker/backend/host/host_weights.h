// HostWeights: everything of a model but the routed experts, converted to the worker's precision at
// load. A rank of several has its share of the outputs (shard_plan.h).
#pragma once

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/host/attention_weights.h"
#include "gpu_worker/backend/host/host_backend.h"
#include "gpu_worker/backend/host/host_linear.h"
#include "gpu_worker/backend/shard/shard_plan.h"

namespace tandem::gpu_worker {

struct HostFfn {
  HostLinear gate, up, down;
  Split inter, hidden;  // outputs of gate and up, of down
};

struct HostLayer {
  std::vector<float> attention_norm, ffn_norm;  // [hidden]
  HostLinear q_a, q_b, q;                       // q_a and q_b, or q
  std::vector<float> q_a_norm;                  // [q_lora]
  HostLinear kv_a;                              // [kv_lora + rope, hidden]
  std::vector<float> kv_a_norm;                 // [kv_lora]
  HeadProjections heads;
  HostLinear o;  // [hidden, heads * v]
  Split o_split;
  std::optional<HostFfn> dense, shared;
  HostLinear router;               // [experts, hidden], always f32; rank 0 alone
  std::vector<float> router_bias;  // [experts], noaux_tc only
};

struct HostWeights {
  HostLinear embedding;  // [vocab, hidden]; each row's own columns
  Split embedding_split;
  std::vector<HostLayer> layers;
  std::vector<float> final_norm;  // [hidden]
  HostLinear lm_head;             // [vocab, hidden]; empty when it is the embedding, or no share
  Split vocab_split;
  bool head_is_embedding = false;
  const HostLinear& head() const { return head_is_embedding ? embedding : lm_head; }
  int64_t size_bytes() const;
};

// Which rank's share is wanted. Without a plan: everything.
struct HostShard {
  const ShardPlan* plan = nullptr;
  int rank = 0;
};

// Every linear layer gets the format that `options` have for it, but the embedding (also where it
// is a native or oneDNN head), the projections of single heads and the router. Rank 0 logs one line
// per layer. Errors are those of HostLinear::Create.
absl::StatusOr<HostWeights> LoadHostWeights(const ModelWeights& weights,
                                            const HostBackendOptions& options,
                                            base::ThreadPool& pool, const HostShard& shard = {});

}  // namespace tandem::gpu_worker
