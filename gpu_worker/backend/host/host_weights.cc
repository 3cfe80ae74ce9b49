#include "gpu_worker/backend/host/host_weights.h"

#include "gpu_worker/backend/host/bf16.h"
#include "lib/base/check.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker {
namespace {

std::vector<float> ReadVector(const TensorView& view) {
  std::vector<float> values(view.rows() * view.cols());
  for (int64_t r = 0; r < view.rows(); ++r) {
    DequantizeRow(view.dtype, view.data + r * view.row_bytes(), view.cols(),
                  values.data() + r * view.cols());
  }
  return values;
}

// Norm weights are bf16 in a bf16 network, whatever the container widened them to.
std::vector<float> ReadNorm(Precision precision, const TensorView& view) {
  std::vector<float> values = ReadVector(view);
  if (precision == Precision::kBf16) {
    for (float& value : values) value = RoundBf16(value);
  }
  return values;
}

HostFfn LoadFfn(Precision precision, const FfnWeights& ffn) {
  return {HostLinear::FromMatrix(precision, ffn.gate), HostLinear::FromMatrix(precision, ffn.up),
          HostLinear::FromMatrix(precision, ffn.down)};
}

void LoadAttention(Precision precision, AttentionKernel kernel, const ModelConfig& config,
                   const AttentionWeights& from, HostLayer& to) {
  if (from.q_a.has_value()) {
    TANDEM_CHECK(from.q_b.has_value() && from.q_a_norm.has_value());
    to.q_a = HostLinear::FromMatrix(precision, *from.q_a);
    to.q_b = HostLinear::FromMatrix(precision, *from.q_b);
    to.q_a_norm = ReadNorm(precision, *from.q_a_norm);
  } else {
    TANDEM_CHECK(from.q.has_value());
    to.q = HostLinear::FromMatrix(precision, *from.q);
  }
  to.kv_a = HostLinear::FromMatrix(precision, from.kv_a);
  to.kv_a_norm = ReadNorm(precision, from.kv_a_norm);
  to.heads = LoadHeadProjections(precision, kernel, config, from);
  to.o = HostLinear::FromMatrix(precision, from.o);
}

HostLayer LoadLayer(Precision precision, AttentionKernel kernel, const ModelConfig& config,
                    const LayerWeights& from) {
  HostLayer to;
  to.attention_norm = ReadNorm(precision, from.attn_norm);
  to.ffn_norm = ReadNorm(precision, from.ffn_norm);
  LoadAttention(precision, kernel, config, from.attention, to);
  if (from.dense.has_value()) to.dense = LoadFfn(precision, *from.dense);
  if (from.shared.has_value()) to.shared = LoadFfn(precision, *from.shared);
  if (from.router.has_value()) to.router = HostLinear::FromMatrix(Precision::kF32, *from.router);
  if (from.router_bias.has_value()) to.router_bias = ReadVector(*from.router_bias);
  return to;
}

}  // namespace

HostWeights LoadHostWeights(const ModelWeights& weights, Precision precision,
                            AttentionKernel kernel) {
  HostWeights host;
  host.embedding = HostLinear::FromMatrix(precision, weights.embedding);
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    host.layers.push_back(LoadLayer(precision, kernel, weights.config, weights.layers[i]));
    base::LogInfo("layer_loaded", {{"layer", i}, {"of", weights.layers.size()}});
  }
  host.final_norm = ReadNorm(precision, weights.final_norm);
  if (weights.lm_head.view.data != weights.embedding.view.data) {
    host.lm_head = HostLinear::FromMatrix(precision, weights.lm_head);
  }
  return host;
}

absl::Status UseOneDnn(HostWeights& weights) {
  std::vector<HostLinear*> all = {&weights.lm_head};
  for (HostLayer& layer : weights.layers) {
    for (HostLinear* linear : {&layer.q_a, &layer.q_b, &layer.q, &layer.kv_a, &layer.o}) {
      all.push_back(linear);
    }
    for (std::optional<HostFfn>* ffn : {&layer.dense, &layer.shared}) {
      if (!ffn->has_value()) continue;
      for (HostLinear* linear : {&(*ffn)->gate, &(*ffn)->up, &(*ffn)->down}) all.push_back(linear);
    }
  }
  for (HostLinear* linear : all) TANDEM_RETURN_IF_ERROR(linear->UseOneDnn());
  return absl::OkStatus();
}

}  // namespace tandem::gpu_worker
