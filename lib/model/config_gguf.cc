#include <charconv>
#include <cmath>
#include <string>
#include <string_view>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "lib/base/status_macros.h"
#include "lib/model/config.h"
#include "lib/model/config_fields.h"

namespace tandem {
namespace {

// GGUF stores f32 where config.json has decimals: 1e-6 comes back as 9.99999997e-07. The number
// meant is the shortest decimal that rounds to the stored f32, so that both containers of one model
// give one config.
double ShortestDecimal(double stored) {
  const float narrow = static_cast<float>(stored);
  if (!std::isfinite(stored) || static_cast<double>(narrow) != stored) return stored;
  char text[64];
  const auto end = std::to_chars(text, text + sizeof(text), narrow).ptr;
  double value = stored;
  std::from_chars(text, end, value);
  return value;
}

// Reads keys below "deepseek2." with the file's name in every message.
class GgufFields {
 public:
  GgufFields(const Metadata& metadata, const std::string& file)
      : metadata_(metadata), file_(file) {}

  bool Has(const std::string& key) const { return metadata_.Has(Full(key)); }

  absl::StatusOr<int64_t> Int(const std::string& key, const ConfigIntField& field) const {
    absl::StatusOr<int64_t> value = metadata_.GetInt(Full(key));
    if (!value.ok()) return Named(value.status());
    if (*value < field.min || *value > field.max)
      return absl::InvalidArgumentError(
          absl::StrFormat("%s: key %s must be an integer in [%d, %d], found %d", file_, Full(key),
                          field.min, field.max, *value));
    return *value;
  }
  absl::StatusOr<double> NumberOr(const std::string& key, double absent) const {
    if (!Has(key)) return absent;
    return Number(key);
  }
  absl::StatusOr<double> Number(const std::string& key) const {
    absl::StatusOr<double> value = metadata_.GetDouble(Full(key));
    if (!value.ok()) return Named(value.status());
    return ShortestDecimal(*value);
  }
  absl::StatusOr<bool> Bool(const std::string& key) const {
    absl::StatusOr<bool> value = metadata_.GetBool(Full(key));
    if (!value.ok()) return Named(value.status());
    return *value;
  }
  absl::StatusOr<std::string> String(const std::string& key) const {
    absl::StatusOr<std::string> value = metadata_.GetString(Full(key));
    if (!value.ok()) return Named(value.status());
    return *value;
  }

  const Metadata& metadata() const { return metadata_; }
  const std::string& file() const { return file_; }
  static std::string Full(const std::string& key) { return absl::StrCat("deepseek2.", key); }
  absl::Status Named(const absl::Status& status) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, ": ", status.message()));
  }
  absl::Status Wrong(const std::string& key, const std::string& what) const {
    return absl::InvalidArgumentError(absl::StrCat(file_, ": key ", Full(key), " ", what));
  }

 private:
  const Metadata& metadata_;
  const std::string& file_;
};

struct KeyOfField {
  const char* gguf_key;
  const char* config_key;  // looked up in ConfigIntFields()
  bool required;
};

constexpr KeyOfField kKeys[] = {
    {"block_count", "num_hidden_layers", true},
    {"context_length", "max_position_embeddings", true},
    {"embedding_length", "hidden_size", true},
    {"attention.head_count", "num_attention_heads", true},
    {"attention.q_lora_rank", "q_lora_rank", false},
    {"attention.kv_lora_rank", "kv_lora_rank", true},
    {"rope.dimension_count", "qk_rope_head_dim", true},
    {"nextn_predict_layers", "num_nextn_predict_layers", false},
    {"leading_dense_block_count", "first_k_dense_replace", false},
    {"expert_count", "n_routed_experts", false},
    {"expert_used_count", "num_experts_per_tok", false},
    {"expert_shared_count", "n_shared_experts", false},
    {"expert_feed_forward_length", "moe_intermediate_size", false},
    {"expert_group_count", "n_group", false},
    {"expert_group_used_count", "topk_group", false},
};

const ConfigIntField& FieldNamed(std::string_view key) {
  for (const ConfigIntField& field : ConfigIntFields())
    if (key == field.key) return field;
  return ConfigIntFields()[0];  // kKeys names existing fields only; config_test checks the table
}

absl::Status ReadTable(const GgufFields& in, ModelConfig& config) {
  for (const KeyOfField& key : kKeys) {
    if (!key.required && !in.Has(key.gguf_key)) continue;
    const ConfigIntField& field = FieldNamed(key.config_key);
    TANDEM_ASSIGN_OR_RETURN(config.*field.member, in.Int(key.gguf_key, field));
  }
  return absl::OkStatus();
}

// block_count includes MTP layers.
absl::Status LeaveOutMtp(const GgufFields& in, ModelConfig& config) {
  config.num_hidden_layers -= config.num_nextn_predict_layers;
  if (config.num_hidden_layers >= 1) return absl::OkStatus();
  return in.Wrong(
      "nextn_predict_layers",
      absl::StrFormat("must be below block_count, found %d of %d", config.num_nextn_predict_layers,
                      config.num_hidden_layers + config.num_nextn_predict_layers));
}

// A number, or one number per layer with 0 or a repetition where the layer is not dense: the
// largest is the dense size.
absl::Status ReadDenseSize(const GgufFields& in, ModelConfig& config) {
  const std::string key = "feed_forward_length";
  const ConfigIntField& field = FieldNamed("intermediate_size");
  const MetadataValue* value = in.metadata().Find(in.Full(key));
  if (value == nullptr || !std::holds_alternative<std::vector<int64_t>>(*value)) {
    TANDEM_ASSIGN_OR_RETURN(config.intermediate_size, in.Int(key, field));
    return absl::OkStatus();
  }
  for (const int64_t size : std::get<std::vector<int64_t>>(*value)) {
    if (size == 0 || size == config.intermediate_size) continue;
    if (config.intermediate_size != 0)
      return absl::UnimplementedError(
          absl::StrFormat("%s: key %s with different sizes %d and %d is not supported", in.file(),
                          in.Full(key), config.intermediate_size, size));
    config.intermediate_size = size;
  }
  return absl::OkStatus();
}

absl::Status ReadHeadSizes(const GgufFields& in, ModelConfig& config) {
  const bool split = in.Has("attention.key_length_mla");
  if (split != in.Has("attention.value_length_mla"))
    return in.Wrong("attention.key_length_mla",
                    "must come together with attention.value_length_mla, found one alone");
  const std::string key_length = split ? "attention.key_length_mla" : "attention.key_length";
  const std::string value_length = split ? "attention.value_length_mla" : "attention.value_length";
  const ConfigIntField size{"", nullptr, 1, 8192};
  TANDEM_ASSIGN_OR_RETURN(const int64_t qk_head, in.Int(key_length, size));
  TANDEM_ASSIGN_OR_RETURN(config.v_head_dim, in.Int(value_length, size));
  config.qk_nope_head_dim = qk_head - config.qk_rope_head_dim;
  if (config.qk_nope_head_dim < 1)
    return in.Wrong(key_length, absl::StrFormat("must be above rope.dimension_count = %d, found %d",
                                                config.qk_rope_head_dim, qk_head));
  if (!split || !in.Has("attention.key_length")) return absl::OkStatus();
  TANDEM_ASSIGN_OR_RETURN(const int64_t row,
                          in.Int("attention.key_length", ConfigIntField{"", nullptr, 1, 1 << 17}));
  if (row == config.kv_row_dim()) return absl::OkStatus();
  return in.Wrong("attention.key_length",
                  absl::StrFormat("must be kv_lora_rank + rope.dimension_count = %d, found %d",
                                  config.kv_row_dim(), row));
}

void Assume(ModelConfig& config, const std::string& file, const std::string& sentence) {
  config.assumptions.push_back(absl::StrCat(file, ": ", sentence));
}

// Files converted before the group keys existed: the expert count tells which published model it
// is.
void AssumeGroups(const GgufFields& in, bool has_bias, ModelConfig& config) {
  const bool v3 = has_bias && config.n_routed_experts == 256;
  const bool v2 = !has_bias && config.n_routed_experts == 160;
  if (!v3 && !v2) return;
  if (!in.Has("expert_group_count") && !in.Has("expert_group_used_count")) {
    config.n_group = 8;
    config.topk_group = v3 ? 4 : 3;
    Assume(config, in.file(),
           absl::StrFormat(
               "no expert group keys with %d experts: assuming %s's 8 groups of which %d are used",
               config.n_routed_experts, v3 ? "DeepSeek-V3" : "DeepSeek-V2", config.topk_group));
  }
  if (v3 && !in.Has("expert_weights_norm")) {
    config.norm_topk_prob = true;
    Assume(config, in.file(),
           "no expert_weights_norm with 256 experts: assuming DeepSeek-V3's normalised weights");
  }
}

absl::Status ReadScoring(const GgufFields& in, bool has_bias, OldFileRouting routing,
                         ModelConfig& config) {
  if (in.Has("expert_gating_func")) {
    TANDEM_ASSIGN_OR_RETURN(const int64_t func,
                            in.Int("expert_gating_func", ConfigIntField{"", nullptr, 0, 255}));
    if (func != 1 && func != 2)
      return absl::UnimplementedError(
          absl::StrFormat("%s: expert_gating_func %d is not supported, expected 1 "
                          "(softmax) or 2 (sigmoid)",
                          in.file(), func));
    config.scoring_func = func == 2 ? ScoringFunc::kSigmoid : ScoringFunc::kSoftmax;
  } else if (has_bias && routing == OldFileRouting::kAssume) {
    config.scoring_func = ScoringFunc::kSigmoid;
    Assume(config, in.file(),
           "no expert_gating_func with selection biases: assuming DeepSeek-V3's sigmoid scores");
  }
  return absl::OkStatus();
}

absl::Status ReadRouting(const GgufFields& in, bool has_bias, OldFileRouting routing,
                         ModelConfig& config) {
  if (config.n_routed_experts == 0) {
    config.first_k_dense_replace = config.num_hidden_layers;
    return absl::OkStatus();
  }
  TANDEM_RETURN_IF_ERROR(ReadScoring(in, has_bias, routing, config));
  if (in.Has("expert_weights_norm")) {
    TANDEM_ASSIGN_OR_RETURN(config.norm_topk_prob, in.Bool("expert_weights_norm"));
  }
  TANDEM_ASSIGN_OR_RETURN(config.routed_scaling_factor, in.NumberOr("expert_weights_scale", 1.0));
  if (config.routed_scaling_factor == 0.0)
    config.routed_scaling_factor = 1.0;  // llama.cpp reads 0 as "none"
  if (routing == OldFileRouting::kAssume) AssumeGroups(in, has_bias, config);
  if (has_bias) {
    config.topk_method = TopkMethod::kNoAuxTc;
  } else if (config.n_group > 1) {
    config.topk_method = TopkMethod::kGroupLimitedGreedy;
  }
  return absl::OkStatus();
}

absl::Status ReadYarnDetails(const GgufFields& in, OldFileRouting routing, YarnConfig& yarn,
                             ModelConfig& config) {
  TANDEM_ASSIGN_OR_RETURN(yarn.factor, in.Number("rope.scaling.factor"));
  TANDEM_ASSIGN_OR_RETURN(
      yarn.original_max_position_embeddings,
      in.Int("rope.scaling.original_context_length", ConfigIntField{"", nullptr, 1, 1 << 28}));
  // Kimi-K2's config.json says 1; its converted files were written before the key existed.
  const bool kimi = config.n_routed_experts == 384 && yarn.factor == 32.0;
  if (kimi && !in.Has("rope.scaling.yarn_beta_fast") && routing == OldFileRouting::kAssume) {
    yarn.beta_fast = 1.0;
    Assume(config, in.file(),
           "no rope.scaling.yarn_beta_fast with 384 experts: assuming Kimi-K2's 1");
  }
  TANDEM_ASSIGN_OR_RETURN(yarn.beta_fast,
                          in.NumberOr("rope.scaling.yarn_beta_fast", yarn.beta_fast));
  TANDEM_ASSIGN_OR_RETURN(yarn.beta_slow,
                          in.NumberOr("rope.scaling.yarn_beta_slow", yarn.beta_slow));
  if (!in.Has("rope.scaling.yarn_log_multiplier")) {
    Assume(config, in.file(),
           "no rope.scaling.yarn_log_multiplier: assuming mscale 1 and mscale_all_dim 0");
    return absl::OkStatus();
  }
  // The converter stores a tenth of mscale_all_dim, and no mscale: published models have both
  // equal.
  TANDEM_ASSIGN_OR_RETURN(const double tenth, in.Number("rope.scaling.yarn_log_multiplier"));
  yarn.mscale_all_dim = ShortestDecimal(static_cast<float>(tenth * 10.0));
  yarn.mscale = yarn.mscale_all_dim;
  return absl::OkStatus();
}

absl::Status ReadRope(const GgufFields& in, OldFileRouting routing, ModelConfig& config) {
  TANDEM_ASSIGN_OR_RETURN(config.rope_theta, in.NumberOr("rope.freq_base", config.rope_theta));
  if (in.Has("attention.temperature_scale"))
    return absl::UnimplementedError(
        absl::StrCat(in.file(), ": key deepseek2.attention.temperature_scale is not supported"));
  if (!in.Has("rope.scaling.type")) return absl::OkStatus();
  TANDEM_ASSIGN_OR_RETURN(const std::string type, in.String("rope.scaling.type"));
  if (type == "none") return absl::OkStatus();
  if (type != "yarn")
    return absl::UnimplementedError(absl::StrCat(in.file(), ": rope.scaling.type \"", type,
                                                 "\" is not supported, expected yarn or none"));
  config.yarn.enabled = true;
  return ReadYarnDetails(in, routing, config.yarn, config);
}

absl::Status ReadVocabulary(const GgufFields& in, ModelConfig& config) {
  if (in.Has("vocab_size")) {
    TANDEM_ASSIGN_OR_RETURN(config.vocab_size, in.Int("vocab_size", FieldNamed("vocab_size")));
  } else {
    absl::StatusOr<std::vector<std::string>> tokens =
        in.metadata().GetStrings("tokenizer.ggml.tokens");
    if (!tokens.ok())
      return absl::InvalidArgumentError(absl::StrCat(
          in.file(),
          ": neither deepseek2.vocab_size nor tokenizer.ggml.tokens tells the vocabulary size"));
    config.vocab_size = static_cast<int64_t>(tokens->size());
  }
  if (in.metadata().Has("tokenizer.ggml.bos_token_id")) {
    absl::StatusOr<int64_t> bos = in.metadata().GetInt("tokenizer.ggml.bos_token_id");
    if (!bos.ok()) return in.Named(bos.status());
    config.bos_token_id = *bos;
  }
  // Every kind of end is an end.
  for (const char* key : {"tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id",
                          "tokenizer.ggml.eom_token_id"}) {
    if (!in.metadata().Has(key)) continue;
    absl::StatusOr<int64_t> id = in.metadata().GetInt(key);
    if (!id.ok()) return in.Named(id.status());
    bool known = false;
    for (const int64_t other : config.eos_token_ids) known = known || other == *id;
    if (!known) config.eos_token_ids.push_back(*id);
  }
  return absl::OkStatus();
}

// The architecture name covers all families; what tells them apart is routing and, for Kimi, the
// pre-tokenizer.
std::string FamilyOf(const Metadata& metadata, const ModelConfig& config) {
  const absl::StatusOr<std::string> pre = metadata.GetString("tokenizer.ggml.pre");
  if (pre.ok() && *pre == "kimi-k2" && config.q_lora_rank > 0)
    return "kimi_k2";  // without: Moonlight
  return config.scoring_func == ScoringFunc::kSigmoid || config.topk_method == TopkMethod::kNoAuxTc
             ? "deepseek_v3"
             : "deepseek_v2";
}

}  // namespace

absl::StatusOr<ModelConfig> ParseGgufConfig(const Metadata& metadata, bool has_selection_bias,
                                            OldFileRouting routing, const std::string& file) {
  const GgufFields in(metadata, file);
  absl::StatusOr<std::string> arch = metadata.GetString("general.architecture");
  if (!arch.ok()) return in.Named(arch.status());
  if (*arch != "deepseek2")
    return absl::UnimplementedError(
        absl::StrCat(file, ": architecture \"", *arch, "\" is not supported, expected deepseek2"));
  ModelConfig config;
  const absl::StatusOr<std::string> name = metadata.GetString("general.name");
  if (name.ok()) config.name = *name;
  TANDEM_RETURN_IF_ERROR(ReadTable(in, config));
  TANDEM_RETURN_IF_ERROR(LeaveOutMtp(in, config));
  TANDEM_RETURN_IF_ERROR(ReadDenseSize(in, config));
  TANDEM_RETURN_IF_ERROR(ReadHeadSizes(in, config));
  TANDEM_ASSIGN_OR_RETURN(config.rms_norm_eps, in.Number("attention.layer_norm_rms_epsilon"));
  TANDEM_RETURN_IF_ERROR(ReadRouting(in, has_selection_bias, routing, config));
  TANDEM_RETURN_IF_ERROR(ReadRope(in, routing, config));
  TANDEM_RETURN_IF_ERROR(ReadVocabulary(in, config));
  config.model_type = FamilyOf(metadata, config);
  TANDEM_RETURN_IF_ERROR(ValidateConfig(config, file));
  return config;
}

}  // namespace tandem
