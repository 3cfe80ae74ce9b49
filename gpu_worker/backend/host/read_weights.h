// Weights that both backends take apart before they use them: norms, and the keys' and values'
// up-projection head by head, whichever way a file keeps them. In f32, row-major.
#pragma once

#include <cstdint>
#include <vector>

#include "gpu_worker/backend/backend.h"
#include "lib/model/model_weights.h"

namespace tandem::gpu_worker {

// All values of a tensor, [rows * cols].
std::vector<float> ReadValues(const TensorView& view);

// Norm weights are bf16 in a bf16 network, whatever the container widened them to.
std::vector<float> ReadNorm(Precision precision, const TensorView& view);

// Of one head: [nope, kv_lora] and [v, kv_lora], from a fused kv_b or from k_b and v_b. CHECKs that
// there is one or the other.
std::vector<float> ReadHeadKeys(const ModelConfig& config, const AttentionWeights& weights,
                                int64_t head);
std::vector<float> ReadHeadValues(const ModelConfig& config, const AttentionWeights& weights,
                                  int64_t head);

// DeepSeek's own fp8 tensors, with a scale for each 128x128: codes and scales can be used as they
// are.
bool IsFp8InBlocks(const Matrix& matrix);

}  // namespace tandem::gpu_worker
