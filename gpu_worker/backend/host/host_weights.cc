#include "gpu_worker/backend/host/host_weights.h"

#include <algorithm>

#include "gpu_worker/backend/host/read_weights.h"
#include "lib/base/check.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"
#include "lib/model/model_weights_names.h"

namespace tandem::gpu_worker {
namespace {

using R = TensorRole;

// How the linear layers of a network are made; the router and what attention takes apart are
// converted whatever the choice.
class LayerLoader {
 public:
  LayerLoader(const ModelConfig& config, const HostBackendOptions& options, base::ThreadPool& pool,
              const ShardPlan& plan, int rank)
      : config_(config),
        options_(options),
        precision_(options.precision),
        pool_(pool),
        plan_(plan),
        rank_(rank) {}

  // This rank's outputs of a layer, and in `split` those of all ranks.
  absl::StatusOr<HostLinear> Linear(R role, int64_t layer, const Matrix& matrix,
                                    Split* split = nullptr) const {
    const Split shares = plan_.SplitOf(role, matrix.rows(), NeedsOf(role, layer));
    if (split != nullptr) *split = shares;
    return Make(role, layer, matrix, shares.of(rank_));
  }

  // The matrix [vocab, hidden] whose rows are looked up; a rank has some columns of each.
  HostLinear Embedding(const Matrix& matrix, Split* split) const {
    if (plan_.ranks() == 1) return HostLinear::FromMatrix(precision_, matrix);
    *split = plan_.SplitOf(R::kEmbedding, matrix.rows(), ShardNeedsOf(LinearKernel::kNative));
    const ShardRange own = split->of(rank_);
    std::vector<float> row(matrix.cols());
    return HostLinear(precision_, matrix.rows(), own.size(), [&](int64_t i, float* dst) {
      DequantizeMatrixRow(matrix, i, row.data());
      std::copy_n(row.data() + own.begin, own.size(), dst);
    });
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
    if (rank_ > 0) return to;  // the first rank chooses experts
    if (from.router.has_value()) to.router = HostLinear::FromMatrix(Precision::kF32, *from.router);
    if (from.router_bias.has_value()) to.router_bias = ReadValues(*from.router_bias);
    return to;
  }

 private:
  LinearFormat FormatOf(R role, int64_t layer) const {
    return options_.FormatOf(ModulePath(role, layer));
  }
  ShardNeeds NeedsOf(R role, int64_t layer) const { return ShardNeedsOf(FormatOf(role, layer)); }

  absl::StatusOr<HostLinear> Make(R role, int64_t layer, const Matrix& matrix,
                                  const ShardRange& own) const {
    return HostLinear::Create(precision_, FormatOf(role, layer), matrix, pool_, &own);
  }

  absl::StatusOr<HostFfn> Ffn(const R (&roles)[3], int64_t layer, const FfnWeights& from) const {
    HostFfn to;
    to.inter = plan_.SplitOf(roles[0], from.gate.rows(),
                             Both(NeedsOf(roles[0], layer), NeedsOf(roles[1], layer)));
    const ShardRange own = to.inter.of(rank_);
    TANDEM_ASSIGN_OR_RETURN(to.gate, Make(roles[0], layer, from.gate, own));
    TANDEM_ASSIGN_OR_RETURN(to.up, Make(roles[1], layer, from.up, own));
    TANDEM_ASSIGN_OR_RETURN(to.down, Linear(roles[2], layer, from.down, &to.hidden));
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
    to.heads =
        LoadHeadProjections(precision_, options_.attention, config_, from, plan_.heads().of(rank_));
    TANDEM_ASSIGN_OR_RETURN(to.o, Linear(R::kO, layer, from.o, &to.o_split));
    return absl::OkStatus();
  }

  const ModelConfig& config_;
  const HostBackendOptions& options_;
  const Precision precision_;
  base::ThreadPool& pool_;
  const ShardPlan& plan_;
  const int rank_;
};

int64_t BytesOf(const std::optional<HostFfn>& ffn) {
  if (!ffn.has_value()) return 0;
  return ffn->gate.size_bytes() + ffn->up.size_bytes() + ffn->down.size_bytes();
}

}  // namespace

int64_t HostWeights::size_bytes() const {
  int64_t bytes = embedding.size_bytes() + lm_head.size_bytes();
  for (const HostLayer& layer : layers) {
    for (const HostLinear* linear :
         {&layer.q_a, &layer.q_b, &layer.q, &layer.kv_a, &layer.o, &layer.router}) {
      bytes += linear->size_bytes();
    }
    for (const HostLinear& keys : layer.heads.keys) bytes += keys.size_bytes();
    for (const HostLinear& values : layer.heads.values) bytes += values.size_bytes();
    bytes += BytesOf(layer.dense) + BytesOf(layer.shared);
  }
  return bytes;
}

absl::StatusOr<HostWeights> LoadHostWeights(const ModelWeights& weights,
                                            const HostBackendOptions& options,
                                            base::ThreadPool& pool, const HostShard& shard) {
  const Precision precision = options.precision;
  TANDEM_ASSIGN_OR_RETURN(const ShardPlan whole, ShardPlan::Make(weights.config, 1));
  const ShardPlan& plan = shard.plan == nullptr ? whole : *shard.plan;
  const LayerLoader loader(weights.config, options, pool, plan, shard.rank);
  HostWeights host;
  host.embedding = loader.Embedding(weights.embedding, &host.embedding_split);
  for (size_t i = 0; i < weights.layers.size(); ++i) {
    TANDEM_ASSIGN_OR_RETURN(HostLayer layer,
                            loader.Layer(static_cast<int64_t>(i), weights.layers[i]));
    host.layers.push_back(std::move(layer));
    if (shard.rank > 0) continue;
    base::LogInfo("layer_loaded", {{"layer", i}, {"of", weights.layers.size()}});
  }
  host.final_norm = ReadNorm(precision, weights.final_norm);
  // A tied head computes with the embedding's rows, unless these are looked up as bf16 and
  // multiplied in another format, or cut into columns where the head is cut into rows.
  const bool tied = weights.lm_head.view.data == weights.embedding.view.data;
  const LinearKernel head = options.FormatOf(ModulePath(R::kLmHead)).kernel;
  const bool bf16 = head == LinearKernel::kNative || head == LinearKernel::kOneDnn;
  host.head_is_embedding = tied && bf16 && plan.ranks() == 1;
  if (!host.head_is_embedding) {
    TANDEM_ASSIGN_OR_RETURN(host.lm_head,
                            loader.Linear(R::kLmHead, 0, weights.lm_head, &host.vocab_split));
  } else {
    host.vocab_split = Split({{0, weights.config.vocab_size}});
  }
  return host;
}

}  // namespace tandem::gpu_worker
