#include "gpu_worker/backend/host/host_weights.h"

#include "gpu_worker/backend/host/bf16.h"
#include "lib/base/check.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"
#include "lib/model/model_weights_names.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker {
namespace {

using R = TensorRole;

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
  LayerLoader(const ModelConfig& config, const HostBackendOptions& options, base::ThreadPool& pool)
      : config_(config), options_(options), precision_(options.precision), pool_(pool) {}

  absl::StatusOr<HostLinear> Linear(R role, int64_t layer, const Matrix& matrix) const {
    return HostLinear::Create(precision_, options_.FormatOf(ModulePath(role, layer)), matrix,
                              pool_);
  }

  absl::StatusOr<HostLayer> Layer(int64_t layer, const LayerWeights& from) const {
    HostLayer to;
    to.attention_norm = ReadNorm(precision_, from.attn_norm);
    to.ffn_norm = ReadNorm(precision_, from.ffn_norm);
    TANDEM_RETURN_IF_ERROR(LoadAttention(layer, from.attention, to));
    if (from.dense.has_value()) {
      TANDEM_ASSIGN_OR_RETURN(to.dense,
                              Ffn({R::kDenseGate, R::kDenseUp, R::kDenseDown}, layer, *from.dense));
    }
    if (from.shared.has_value()) {
      TANDEM_ASSIGN_OR_RETURN(
          to.shared, Ffn({R::kSharedGate, R::kSharedUp, R::kSharedDown}, layer, *from.shared));
    }
    if (from.router.has_value()) to.router = HostLinear::FromMatrix(Precision::kF32, *from.router);
    if (from.router_bias.has_value()) to.router_bias = ReadVector(*from.router_bias);
    return to;
  }

 private:
  absl::StatusOr<HostFfn> Ffn(const R (&roles)[3], int64_t layer, const FfnWeights& from) const {
    HostFfn to;
    TANDEM_ASSIGN_OR_RETURN(to.gate, Linear(roles[0], layer, from.gate));
    TANDEM_ASSIGN_OR_RETURN(to.up, Linear(roles[1], layer, from.up));
    TANDEM_ASSIGN_OR_RETURN(to.down, Linear(roles[2], layer, from.down));
    return to;
  }

  absl::Status LoadAttention(int64_t layer, const AttentionWeights& from, HostLayer& to) const {
    if (from.q_a.has_value()) {
      TANDEM_CHECK(from.q_b.has_value() && from.q_a_norm.has_value());
      TANDEM_ASSIGN_OR_RETURN(to.q_a, Linear(R::kQA, layer, *from.q_a));
      TANDEM_ASSIGN_OR_RETURN(to.q_b, Linear(R::kQB, layer, *from.q_b));
      to.q_a_norm = ReadNorm(precision_, *from.q_a_norm);
    } else {
      TANDEM_CHECK(from.q.has_value());
      TANDEM_ASSIGN_OR_RETURN(to.q, Linear(R::kQ, layer, *from.q));
    }
    TANDEM_ASSIGN_OR_RETURN(to.kv_a, Linear(R::kKvA, layer, from.kv_a));
    to.kv_a_norm = ReadNorm(precision_, from.kv_a_norm);
    to.heads = LoadHeadProjections(precision_, options_.attention, config_, from);
    TANDEM_ASSIGN_OR_RETURN(to.o, Linear(R::kO, layer, from.o));
    return absl::OkStatus();
  }

  const ModelConfig& config_;
  const HostBackendOptions& options_;
  const Precision precision_;
  base::ThreadPool& pool_;
};

}  // namespace

absl::StatusOr<HostWeights> LoadHostWeights(const ModelWeights& weights,
                                            const HostBackendOptions& options,
                                            base::ThreadPool& pool) {
  const Precision precision = options.precision;
  const LayerLoader loader(weights.config, options, pool);
  HostWeights host;
  host.embedding = HostLinear::FromMatrix(precision, weights.embedding);
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    TANDEM_ASSIGN_OR_RETURN(HostLayer layer,
                            loader.Layer(static_cast<int64_t>(i), weights.layers[i]));
    host.layers.push_back(std::move(layer));
    base::LogInfo("layer_loaded", {{"layer", i}, {"of", weights.layers.size()}});
  }
  host.final_norm = ReadNorm(precision, weights.final_norm);
  // A tied head computes with the embedding's rows, unless these are looked up as bf16 and
  // multiplied in another format.
  const bool tied = weights.lm_head.view.data == weights.embedding.view.data;
  const LinearKernel head = options.FormatOf(ModulePath(R::kLmHead)).kernel;
  const bool bf16 = head == LinearKernel::kNative || head == LinearKernel::kOneDnn;
  if (!tied || !bf16) {
    TANDEM_ASSIGN_OR_RETURN(host.lm_head, loader.Linear(R::kLmHead, 0, weights.lm_head));
  }
  return host;
}

}  // namespace tandem::gpu_worker
