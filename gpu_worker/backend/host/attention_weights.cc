#include "gpu_worker/backend/host/attention_weights.h"

#include <algorithm>

#include "gpu_worker/backend/host/read_weights.h"

namespace tandem::gpu_worker {
namespace {

// `values` [rows, cols] as the weights of `rows` outputs.
HostLinear ToLinear(Precision precision, int64_t rows, int64_t cols,
                    const std::vector<float>& values) {
  return HostLinear(precision, rows, cols, [&](int64_t r, float* dst) {
    std::copy_n(values.data() + r * cols, cols, dst);
  });
}

// The same of the transposed matrix: `cols` outputs.
HostLinear ToTransposedLinear(Precision precision, int64_t rows, int64_t cols,
                              const std::vector<float>& values) {
  return HostLinear(precision, cols, rows, [&](int64_t c, float* dst) {
    for (int64_t r = 0; r < rows; ++r) dst[r] = values[r * cols + c];
  });
}

}  // namespace

HeadProjections LoadHeadProjections(Precision precision, AttentionKernel kernel,
                                    const ModelConfig& config, const AttentionWeights& weights,
                                    const ShardRange& own_heads) {
  const int64_t nope = config.qk_nope_head_dim, latent = config.kv_lora_rank;
  const auto keys_of = kernel == AttentionKernel::kFlash ? ToTransposedLinear : ToLinear;
  HeadProjections heads;
  for (int64_t h = own_heads.begin; h < own_heads.end; ++h) {
    heads.keys.push_back(keys_of(precision, nope, latent, ReadHeadKeys(config, weights, h)));
    heads.values.push_back(
        ToLinear(precision, config.v_head_dim, latent, ReadHeadValues(config, weights, h)));
  }
  return heads;
}

}  // namespace tandem::gpu_worker
