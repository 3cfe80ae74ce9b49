// HostWeights: everything of a model but the routed experts, converted to the worker's precision at
// load.
#pragma once

#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/host/attention_weights.h"
#include "gpu_worker/backend/host/host_backend.h"
#include "gpu_worker/backend/host/host_linear.h"

namespace tandem::gpu_worker {

struct HostFfn {
  HostLinear gate, up, down;
};

struct HostLayer {
  std::vector<float> attention_norm, ffn_norm;  // [hidden]
  HostLinear q_a, q_b, q;                       // q_a and q_b, or q
  std::vector<float> q_a_norm;                  // [q_lora]
  HostLinear kv_a;                              // [kv_lora + rope, hidden]
  std::vector<float> kv_a_norm;                 // [kv_lora]
  HeadProjections heads;
  HostLinear o;  // [hidden, heads * v]
  std::optional<HostFfn> dense, shared;
  HostLinear router;               // [experts, hidden], always f32
  std::vector<float> router_bias;  // [experts], noaux_tc only
};

struct HostWeights {
  HostLinear embedding;  // [vocab, hidden]
  std::vector<HostLayer> layers;
  std::vector<float> final_norm;  // [hidden]
  HostLinear lm_head;             // [vocab, hidden]; empty when tied to the embedding
  const HostLinear& head() const { return lm_head.empty() ? embedding : lm_head; }
};

// Every linear layer gets the format that `options` have for it, but the embedding (also where it
// is a native or oneDNN head), the projections of single heads and the router. Logs one line per
// layer. Errors are those of HostLinear::Create.
absl::StatusOr<HostWeights> LoadHostWeights(const ModelWeights& weights,
                                            const HostBackendOptions& options,
                                            base::ThreadPool& pool);

}  // namespace tandem::gpu_worker
