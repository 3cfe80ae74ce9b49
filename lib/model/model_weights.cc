#include "lib/model/model_weights.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/model/config_json.h"
#include "lib/model/config_tokens.h"
#include "lib/model/model_weights_agree.h"
#include "lib/model/model_weights_digest.h"
#include "lib/model/model_weights_resolver.h"

namespace tandem {
namespace {

using R = TensorRole;

// Config files are a few kilobytes; the bound keeps a wrong path from being read into memory.
constexpr int64_t kConfigBytesMax = 16 << 20;

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  std::error_code error;
  const uintmax_t bytes = std::filesystem::file_size(path, error);
  if (error) return absl::NotFoundError(absl::StrCat(path, ": ", error.message()));
  if (bytes > static_cast<uintmax_t>(kConfigBytesMax))
    return absl::InvalidArgumentError(absl::StrCat(path, ": expected a config of at most ",
                                                   kConfigBytesMax, " bytes, found ", bytes));
  std::ifstream in(path, std::ios::binary);
  std::ostringstream text;
  text << in.rdbuf();
  if (!in) return absl::DataLossError(absl::StrCat(path, ": cannot be read"));
  return text.str();
}

// Adds the stop ids that only generation_config.json names. The file is optional.
absl::Status AddGenerationConfig(const std::filesystem::path& folder, ModelConfig& config) {
  const std::string path = (folder / "generation_config.json").string();
  if (!std::filesystem::exists(path)) return absl::OkStatus();
  TANDEM_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(path));
  TANDEM_ASSIGN_OR_RETURN(const nlohmann::json object, ParseJsonObject(text, path));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<int64_t> ids,
                          ReadEosTokenIds(JsonFields(object, path)));
  std::vector<int64_t>& known = config.eos_token_ids;
  for (const int64_t id : ids)
    if (std::find(known.begin(), known.end(), id) == known.end()) known.push_back(id);
  return ValidateConfig(config, path);
}

absl::StatusOr<ModelConfig> LoadHfConfig(const std::string& path) {
  namespace fs = std::filesystem;
  const fs::path folder = fs::is_directory(path) ? fs::path(path) : fs::path(path).parent_path();
  const std::string file = (folder / "config.json").string();
  TANDEM_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(file));
  TANDEM_ASSIGN_OR_RETURN(ModelConfig config, ParseHfConfig(text, file));
  TANDEM_RETURN_IF_ERROR(AddGenerationConfig(folder, config));
  if (config.name.empty()) config.name = fs::weakly_canonical(folder).filename().string();
  return config;
}

absl::StatusOr<ModelConfig> ConfigOf(const TensorSource& source, const LoadOptions& options) {
  if (source.kind() == ContainerKind::kSafetensors) return LoadHfConfig(source.path());
  bool has_bias = false;
  for (const TensorView& tensor : source.tensors())
    has_bias = has_bias || absl::EndsWith(tensor.name, ".exp_probs_b.bias");
  TANDEM_ASSIGN_OR_RETURN(ModelConfig config, ParseGgufConfig(source.metadata(), has_bias,
                                                              options.routing, source.path()));
  // GGUF says so by leaving the output matrix out.
  config.tie_word_embeddings = source.Find(TensorNameOf(source.kind(), R::kLmHead)) == nullptr;
  return config;
}

absl::Status LoadQuery(TensorResolver& in, const ModelConfig& c, int64_t layer,
                       AttentionWeights& a) {
  const int64_t q_rows = c.num_attention_heads * c.qk_head_dim();
  if (c.q_lora_rank == 0) {
    TANDEM_ASSIGN_OR_RETURN(a.q, in.GetMatrix(R::kQ, q_rows, c.hidden_size, layer));
    return absl::OkStatus();
  }
  TANDEM_ASSIGN_OR_RETURN(a.q_a, in.GetMatrix(R::kQA, c.q_lora_rank, c.hidden_size, layer));
  TANDEM_ASSIGN_OR_RETURN(a.q_a_norm, in.GetTensor(R::kQANorm, {c.q_lora_rank}, layer));
  TANDEM_ASSIGN_OR_RETURN(a.q_b, in.GetMatrix(R::kQB, q_rows, c.q_lora_rank, layer));
  return absl::OkStatus();
}

absl::Status LoadKeyValue(TensorResolver& in, const ModelConfig& c, int64_t layer,
                          AttentionWeights& a) {
  const int64_t heads = c.num_attention_heads;
  TANDEM_ASSIGN_OR_RETURN(a.kv_a, in.GetMatrix(R::kKvA, c.kv_row_dim(), c.hidden_size, layer));
  TANDEM_ASSIGN_OR_RETURN(a.kv_a_norm, in.GetTensor(R::kKvANorm, {c.kv_lora_rank}, layer));
  const bool split = in.Has(R::kKB, layer) && in.Has(R::kVB, layer);
  if (in.Has(R::kKvB, layer) || !split) {
    const int64_t rows = heads * (c.qk_nope_head_dim + c.v_head_dim);
    TANDEM_ASSIGN_OR_RETURN(a.kv_b, in.GetMatrix(R::kKvB, rows, c.kv_lora_rank, layer));
    // Some converters write both forms; the fused one is complete, and layouts of the other differ
    // between them.
    in.Ignore(R::kKB, layer);
    in.Ignore(R::kVB, layer);
    return absl::OkStatus();
  }
  TANDEM_ASSIGN_OR_RETURN(a.k_b,
                          in.GetTensor(R::kKB, {heads, c.kv_lora_rank, c.qk_nope_head_dim}, layer));
  TANDEM_ASSIGN_OR_RETURN(a.v_b,
                          in.GetTensor(R::kVB, {heads, c.v_head_dim, c.kv_lora_rank}, layer));
  return absl::OkStatus();
}

struct FfnRoles {
  R gate, up, down;
};

absl::StatusOr<FfnWeights> LoadFfn(TensorResolver& in, FfnRoles roles, int64_t inter,
                                   int64_t hidden, int64_t layer, int64_t expert = 0) {
  FfnWeights ffn;
  TANDEM_ASSIGN_OR_RETURN(ffn.gate, in.GetMatrix(roles.gate, inter, hidden, layer, expert));
  TANDEM_ASSIGN_OR_RETURN(ffn.up, in.GetMatrix(roles.up, inter, hidden, layer, expert));
  TANDEM_ASSIGN_OR_RETURN(ffn.down, in.GetMatrix(roles.down, hidden, inter, layer, expert));
  return ffn;
}

absl::Status SplitGateUp(TensorResolver& in, const ModelConfig& c, int64_t layer,
                         std::vector<FfnWeights>& experts) {
  const int64_t inter = c.moe_intermediate_size;
  TANDEM_ASSIGN_OR_RETURN(
      std::vector<Matrix> both,
      in.GetStacked(R::kStackedGateUp, c.n_routed_experts, 2 * inter, c.hidden_size, layer));
  for (size_t e = 0; e < both.size(); ++e) {
    const std::optional<Matrix> gate = RowRange(both[e], 0, inter);
    const std::optional<Matrix> up = RowRange(both[e], inter, inter);
    if (!gate.has_value() || !up.has_value())
      return absl::UnimplementedError(
          absl::StrCat(both[e].view.file, ": tensor ", both[e].view.name,
                       " has fp8 blocks across gate and up, which is not supported"));
    experts[e].gate = *gate;
    experts[e].up = *up;
  }
  return absl::OkStatus();
}

absl::Status LoadStackedExperts(TensorResolver& in, const ModelConfig& c, int64_t layer,
                                std::vector<FfnWeights>& experts) {
  const int64_t count = c.n_routed_experts, inter = c.moe_intermediate_size, hidden = c.hidden_size;
  if (in.Has(R::kStackedGateUp, layer)) {
    TANDEM_RETURN_IF_ERROR(SplitGateUp(in, c, layer, experts));
  } else {
    TANDEM_ASSIGN_OR_RETURN(std::vector<Matrix> gates,
                            in.GetStacked(R::kStackedGate, count, inter, hidden, layer));
    TANDEM_ASSIGN_OR_RETURN(std::vector<Matrix> ups,
                            in.GetStacked(R::kStackedUp, count, inter, hidden, layer));
    for (int64_t e = 0; e < count; ++e) {
      experts[e].gate = std::move(gates[e]);
      experts[e].up = std::move(ups[e]);
    }
  }
  TANDEM_ASSIGN_OR_RETURN(std::vector<Matrix> downs,
                          in.GetStacked(R::kStackedDown, count, hidden, inter, layer));
  for (int64_t e = 0; e < count; ++e) experts[e].down = std::move(downs[e]);
  return absl::OkStatus();
}

absl::Status LoadExperts(TensorResolver& in, const ModelConfig& c, ContainerKind kind,
                         int64_t layer, std::vector<FfnWeights>& experts) {
  experts.resize(c.n_routed_experts);
  const bool stacked = in.Has(R::kStackedDown, layer);
  // A missing tensor is reported under the name the container usually has.
  if (stacked || (kind == ContainerKind::kGguf && !in.Has(R::kExpertDown, layer, 0)))
    return LoadStackedExperts(in, c, layer, experts);
  for (int64_t e = 0; e < c.n_routed_experts; ++e) {
    TANDEM_ASSIGN_OR_RETURN(experts[e], LoadFfn(in, {R::kExpertGate, R::kExpertUp, R::kExpertDown},
                                                c.moe_intermediate_size, c.hidden_size, layer, e));
  }
  return absl::OkStatus();
}

// All of a MoE layer but the routed experts.
absl::Status LoadMoe(TensorResolver& in, const ModelConfig& c, int64_t layer, LayerWeights& out) {
  TANDEM_ASSIGN_OR_RETURN(out.router,
                          in.GetMatrix(R::kRouter, c.n_routed_experts, c.hidden_size, layer));
  if (c.topk_method == TopkMethod::kNoAuxTc) {
    TANDEM_ASSIGN_OR_RETURN(out.router_bias,
                            in.GetTensor(R::kRouterBias, {c.n_routed_experts}, layer));
  }
  if (c.n_shared_experts > 0) {
    TANDEM_ASSIGN_OR_RETURN(
        out.shared, LoadFfn(in, {R::kSharedGate, R::kSharedUp, R::kSharedDown},
                            c.n_shared_experts * c.moe_intermediate_size, c.hidden_size, layer));
  }
  return absl::OkStatus();
}

absl::Status LoadLayer(TensorResolver& in, const ModelConfig& c, int64_t layer, LayerWeights& out) {
  TANDEM_ASSIGN_OR_RETURN(out.attn_norm, in.GetTensor(R::kAttnNorm, {c.hidden_size}, layer));
  TANDEM_ASSIGN_OR_RETURN(out.ffn_norm, in.GetTensor(R::kFfnNorm, {c.hidden_size}, layer));
  TANDEM_RETURN_IF_ERROR(LoadQuery(in, c, layer, out.attention));
  TANDEM_RETURN_IF_ERROR(LoadKeyValue(in, c, layer, out.attention));
  TANDEM_ASSIGN_OR_RETURN(
      out.attention.o,
      in.GetMatrix(R::kO, c.hidden_size, c.num_attention_heads * c.v_head_dim, layer));
  if (c.IsMoeLayer(layer)) return LoadMoe(in, c, layer, out);
  TANDEM_ASSIGN_OR_RETURN(out.dense, LoadFfn(in, {R::kDenseGate, R::kDenseUp, R::kDenseDown},
                                             c.intermediate_size, c.hidden_size, layer));
  return absl::OkStatus();
}

absl::Status LoadGlobals(TensorResolver& in, ModelWeights& model) {
  const ModelConfig& c = model.config;
  TANDEM_ASSIGN_OR_RETURN(model.embedding,
                          in.GetMatrix(R::kEmbedding, c.vocab_size, c.hidden_size));
  TANDEM_ASSIGN_OR_RETURN(model.final_norm, in.GetTensor(R::kFinalNorm, {c.hidden_size}));
  if (c.tie_word_embeddings) {
    model.lm_head = model.embedding;
    in.Ignore(R::kLmHead);
    return absl::OkStatus();
  }
  TANDEM_ASSIGN_OR_RETURN(model.lm_head, in.GetMatrix(R::kLmHead, c.vocab_size, c.hidden_size));
  return absl::OkStatus();
}

// Whether both paths lead to one file or folder.
bool IsOneSource(const ModelSources& sources) {
  if (sources.dense == sources.experts) return true;
  std::error_code error;
  const bool same = std::filesystem::equivalent(sources.dense, sources.experts, error);
  return same && !error;
}

struct ExpertsSide {
  std::shared_ptr<const TensorSource> source;
  ModelConfig config;
};

absl::StatusOr<ExpertsSide> OpenExperts(const std::string& path, const ModelWeights& model,
                                        const LoadOptions& options) {
  ExpertsSide side;
  TANDEM_ASSIGN_OR_RETURN(side.source, TensorSource::Open(path));
  // Assumptions about this file's routing are of no consequence: the dense source's decides.
  TANDEM_ASSIGN_OR_RETURN(side.config, ConfigOf(*side.source, LoadOptions()));
  const std::string router =
      TensorNameOf(side.source->kind(), R::kRouter, side.config.first_k_dense_replace);
  const bool routing =
      options.routing == OldFileRouting::kAssume && side.source->Find(router) != nullptr;
  TANDEM_RETURN_IF_ERROR(CheckSameNetwork(model.config, model.source->path(), side.config,
                                          side.source->path(), routing));
  return side;
}

absl::Status LoadAllExperts(TensorResolver& in, ContainerKind kind, ModelWeights& model) {
  for (int64_t layer = 0; layer < model.config.num_hidden_layers; ++layer) {
    if (!model.config.IsMoeLayer(layer)) continue;
    TANDEM_RETURN_IF_ERROR(LoadExperts(in, model.config, kind, layer, model.layers[layer].experts));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ModelWeights> LoadModel(const ModelSources& sources, const LoadOptions& options) {
  ModelWeights model;
  TANDEM_ASSIGN_OR_RETURN(model.source, TensorSource::Open(sources.dense));
  TANDEM_ASSIGN_OR_RETURN(model.config, ConfigOf(*model.source, options));
  const bool one_source = IsOneSource(sources);
  ExpertsSide other;
  if (!one_source) {
    TANDEM_ASSIGN_OR_RETURN(other, OpenExperts(sources.experts, model, options));
  }
  model.experts_source = one_source ? model.source : other.source;
  TensorResolver dense(*model.source, model.config);
  TensorResolver experts(*model.experts_source, one_source ? model.config : other.config);
  TANDEM_RETURN_IF_ERROR(LoadGlobals(dense, model));
  model.layers.resize(model.config.num_hidden_layers);
  for (int64_t layer = 0; layer < model.config.num_hidden_layers; ++layer)
    TANDEM_RETURN_IF_ERROR(LoadLayer(dense, model.config, layer, model.layers[layer]));
  TANDEM_RETURN_IF_ERROR(
      LoadAllExperts(one_source ? dense : experts, model.experts_source->kind(), model));
  int64_t mtp_layers_found = 0;
  TANDEM_RETURN_IF_ERROR(dense.CheckAllUsed(!one_source, &mtp_layers_found));
  model.config.num_nextn_predict_layers = mtp_layers_found;
  model.digest = one_source ? WeightsDigest(model.config, *model.source)
                            : WeightsDigest(model.config, *model.source, *model.experts_source);
  return model;
}

absl::StatusOr<ModelWeights> LoadModel(const std::string& path, const LoadOptions& options) {
  return LoadModel(ModelSources{path, path}, options);
}

absl::StatusOr<ModelConfig> LoadConfig(const std::string& path, const LoadOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const auto source, TensorSource::Open(path));
  return ConfigOf(*source, options);
}

}  // namespace tandem
