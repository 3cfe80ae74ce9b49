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

// How the linear layers of a network are made; the router and what attention takes apart are
// converted whatever the choice.
class LayerLoader {
 public:
  LayerLoader(const ModelConfig& config, Precision precision, AttentionKernel attention,
              LinearFormat linear, base::ThreadPool& pool)
      : config_(config),
        precision_(precision),
        attention_(attention),
        linear_(linear),
        pool_(pool) {}

  absl::StatusOr<HostLinear> Linear(const Matrix& matrix) const {
    return HostLinear::Create(precision_, linear_, matrix, pool_);
  }

  absl::StatusOr<HostLayer> Layer(const LayerWeights& from) const {
    HostLayer to;
    to.attention_norm = ReadNorm(precision_, from.attn_norm);
    to.ffn_norm = ReadNorm(precision_, from.ffn_norm);
    TANDEM_RETURN_IF_ERROR(LoadAttention(from.attention, to));
    if (from.dense.has_value()) {
      TANDEM_ASSIGN_OR_RETURN(to.dense, Ffn(*from.dense));
    }
    if (from.shared.has_value()) {
      TANDEM_ASSIGN_OR_RETURN(to.shared, Ffn(*from.shared));
    }
    if (from.router.has_value()) to.router = HostLinear::FromMatrix(Precision::kF32, *from.router);
    if (from.router_bias.has_value()) to.router_bias = ReadVector(*from.router_bias);
    return to;
  }

 private:
  absl::StatusOr<HostFfn> Ffn(const FfnWeights& from) const {
    HostFfn to;
    TANDEM_ASSIGN_OR_RETURN(to.gate, Linear(from.gate));
    TANDEM_ASSIGN_OR_RETURN(to.up, Linear(from.up));
    TANDEM_ASSIGN_OR_RETURN(to.down, Linear(from.down));
    return to;
  }

  absl::Status LoadAttention(const AttentionWeights& from, HostLayer& to) const {
    if (from.q_a.has_value()) {
      TANDEM_CHECK(from.q_b.has_value() && from.q_a_norm.has_value());
      TANDEM_ASSIGN_OR_RETURN(to.q_a, Linear(*from.q_a));
      TANDEM_ASSIGN_OR_RETURN(to.q_b, Linear(*from.q_b));
      to.q_a_norm = ReadNorm(precision_, *from.q_a_norm);
    } else {
      TANDEM_CHECK(from.q.has_value());
      TANDEM_ASSIGN_OR_RETURN(to.q, Linear(*from.q));
    }
    TANDEM_ASSIGN_OR_RETURN(to.kv_a, Linear(from.kv_a));
    to.kv_a_norm = ReadNorm(precision_, from.kv_a_norm);
    to.heads = LoadHeadProjections(precision_, attention_, config_, from);
    TANDEM_ASSIGN_OR_RETURN(to.o, Linear(from.o));
    return absl::OkStatus();
  }

  const ModelConfig& config_;
  const Precision precision_;
  const AttentionKernel attention_;
  const LinearFormat linear_;
  base::ThreadPool& pool_;
};

}  // namespace

absl::StatusOr<HostWeights> LoadHostWeights(const ModelWeights& weights, Precision precision,
                                            AttentionKernel attention, LinearFormat linear,
                                            base::ThreadPool& pool) {
  const LayerLoader loader(weights.config, precision, attention, linear, pool);
  HostWeights host;
  host.embedding = HostLinear::FromMatrix(precision, weights.embedding);
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    TANDEM_ASSIGN_OR_RETURN(HostLayer layer, loader.Layer(weights.layers[i]));
    host.layers.push_back(std::move(layer));
    base::LogInfo("layer_loaded", {{"layer", i}, {"of", weights.layers.size()}});
  }
  host.final_norm = ReadNorm(precision, weights.final_norm);
  // A tied head computes with the embedding's rows, unless these are looked up as bf16 and
  // multiplied in another format.
  const bool tied = weights.lm_head.view.data == weights.embedding.view.data;
  const bool bf16 =
      linear.kernel == LinearKernel::kNative || linear.kernel == LinearKernel::kOneDnn;
  if (!tied || !bf16) {
    TANDEM_ASSIGN_OR_RETURN(host.lm_head, loader.Linear(weights.lm_head));
  }
  return host;
}

}  // namespace tandem::gpu_worker
