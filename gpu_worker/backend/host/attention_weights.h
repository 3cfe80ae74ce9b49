// The up-projection kv_b of multi-head latent attention in the two forms the two attention kernels
// need: by head, keys as [nope, kv_lora] to rebuild keys from latents (reference) or transposed to
// [kv_lora, nope] to move the query into latent space (flash; "absorbed", DeepSeek-V2 paper,
// section 2.1).
#pragma once

#include <vector>

#include "gpu_worker/backend/host/host_linear.h"

namespace tandem::gpu_worker {

struct HeadProjections {
  std::vector<HostLinear> keys;  // per head: [nope, kv_lora] (reference) or [kv_lora, nope] (flash)
  std::vector<HostLinear> values;  // per head: [v, kv_lora]
};

// Of the given heads.
HeadProjections LoadHeadProjections(Precision precision, AttentionKernel kernel,
                                    const ModelConfig& config, const AttentionWeights& weights,
                                    const ShardRange& own_heads);

}  // namespace tandem::gpu_worker
