#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "lib/base/status_macros.h"
#include "lib/model/config.h"
#include "lib/model/config_fields.h"
#include "lib/model/config_json.h"
#include "lib/model/config_tokens.h"

namespace tandem {
namespace {

bool IsV2(const ModelConfig& config) { return config.model_type == "deepseek_v2"; }

// Limits of one field of the table in config.cc.
const ConfigIntField& FieldOf(const char* key) {
  const auto fields = ConfigIntFields();
  return *std::find_if(fields.begin(), fields.end(),
                       [&](const ConfigIntField& f) { return std::string(f.key) == key; });
}

absl::Status ReadRequiredInt(const JsonFields& json, const char* key, ModelConfig& config) {
  const ConfigIntField& field = FieldOf(key);
  TANDEM_ASSIGN_OR_RETURN(config.*field.member, json.Int(key, field.min, field.max));
  return absl::OkStatus();
}

absl::Status ReadOptionalInt(const JsonFields& json, const char* key, ModelConfig& config) {
  const ConfigIntField& field = FieldOf(key);
  TANDEM_ASSIGN_OR_RETURN(config.*field.member,
                          json.IntOr(key, config.*field.member, field.min, field.max));
  return absl::OkStatus();
}

absl::Status ReadModelType(const JsonFields& json, ModelConfig& config) {
  TANDEM_ASSIGN_OR_RETURN(config.model_type, json.String("model_type"));
  // Moonlight calls itself deepseek_v3, and R1 and V3.1 do too.
  for (const char* known : {"deepseek_v2", "deepseek_v3", "kimi_k2"})
    if (config.model_type == known) return absl::OkStatus();
  return json.Unsupported("model_type", absl::StrCat("\"", config.model_type, "\""),
                          "deepseek_v2, deepseek_v3 or kimi_k2");
}

absl::Status ReadSizes(const JsonFields& json, ModelConfig& config) {
  for (const char* key : {"vocab_size", "hidden_size", "num_hidden_layers", "intermediate_size",
                          "num_attention_heads", "kv_lora_rank", "qk_nope_head_dim",
                          "qk_rope_head_dim", "v_head_dim", "max_position_embeddings"})
    TANDEM_RETURN_IF_ERROR(ReadRequiredInt(json, key, config));
  for (const char* key : {"num_nextn_predict_layers", "moe_layer_freq", "q_lora_rank"})
    TANDEM_RETURN_IF_ERROR(ReadOptionalInt(json, key, config));
  // null means a plain q projection; an absent field would mean whatever the reading program
  // defaults to.
  if (!json.HasKey("q_lora_rank")) return json.Missing("q_lora_rank", "a positive integer or null");
  TANDEM_ASSIGN_OR_RETURN(const int64_t kv_heads,
                          json.IntOr("num_key_value_heads", config.num_attention_heads, 1, 1024));
  if (kv_heads != config.num_attention_heads)
    return json.Wrong(
        "num_key_value_heads",
        absl::StrCat("num_attention_heads = ", config.num_attention_heads, " (latent attention)"));
  return absl::OkStatus();
}

absl::Status RefuseUnsupportedParts(const JsonFields& json) {
  TANDEM_ASSIGN_OR_RETURN(const std::string act, json.StringOr("hidden_act", "silu"));
  if (act != "silu")
    return json.Unsupported("hidden_act", absl::StrCat("\"", act, "\""), "\"silu\"");
  for (const char* key : {"attention_bias", "mlp_bias"}) {
    TANDEM_ASSIGN_OR_RETURN(const bool bias, json.BoolOr(key, false));
    if (bias) return json.Unsupported(key, "true", "false");
  }
  return absl::OkStatus();
}

absl::Status ReadScoring(const JsonFields& json, ModelConfig& config) {
  const bool v2 = IsV2(config);
  TANDEM_ASSIGN_OR_RETURN(const std::string scoring,
                          json.StringOr("scoring_func", v2 ? "softmax" : "sigmoid"));
  // Both reference codes compute one function per model type whatever the field says, so a mismatch
  // has no meaning.
  const std::string expected = v2 ? "softmax" : "sigmoid";
  if (scoring != expected)
    return json.Unsupported("scoring_func", absl::StrCat("\"", scoring, "\""),
                            absl::StrCat("\"", expected, "\" with model_type ", config.model_type));
  config.scoring_func = v2 ? ScoringFunc::kSoftmax : ScoringFunc::kSigmoid;
  TANDEM_ASSIGN_OR_RETURN(const std::string method,
                          json.StringOr("topk_method", v2 ? "greedy" : "noaux_tc"));
  if (!v2 && method == "noaux_tc") {
    config.topk_method = TopkMethod::kNoAuxTc;
  } else if (v2 && method == "group_limited_greedy") {
    config.topk_method = TopkMethod::kGroupLimitedGreedy;
  } else if (v2 && method == "greedy") {
    config.topk_method = TopkMethod::kGreedy;
  } else {
    return json.Unsupported("topk_method", absl::StrCat("\"", method, "\""),
                            v2 ? "greedy or group_limited_greedy with model_type deepseek_v2"
                               : absl::StrCat("noaux_tc with model_type ", config.model_type));
  }
  return absl::OkStatus();
}

absl::Status ReadRouting(const JsonFields& json, ModelConfig& config) {
  TANDEM_RETURN_IF_ERROR(ReadOptionalInt(json, "n_routed_experts", config));
  if (!json.HasKey("n_routed_experts"))
    return json.Missing("n_routed_experts", "an integer or null");
  config.first_k_dense_replace = config.num_hidden_layers;
  if (config.n_routed_experts == 0) return absl::OkStatus();
  for (const char* key : {"moe_intermediate_size", "num_experts_per_tok", "first_k_dense_replace"})
    TANDEM_RETURN_IF_ERROR(ReadRequiredInt(json, key, config));
  TANDEM_RETURN_IF_ERROR(ReadOptionalInt(json, "n_shared_experts", config));
  // V2 leaves these out when it does not use them; for V3's routing the defaults of reading
  // programs differ.
  for (const char* key : {"n_group", "topk_group"})
    TANDEM_RETURN_IF_ERROR(IsV2(config) ? ReadOptionalInt(json, key, config)
                                        : ReadRequiredInt(json, key, config));
  TANDEM_RETURN_IF_ERROR(ReadScoring(json, config));
  // Greedy looks at all experts, and one group is no grouping: one spelling for both.
  if (config.topk_method == TopkMethod::kGreedy) config.n_group = config.topk_group = 1;
  if (config.topk_method == TopkMethod::kGroupLimitedGreedy && config.n_group == 1)
    config.topk_method = TopkMethod::kGreedy;
  TANDEM_ASSIGN_OR_RETURN(config.norm_topk_prob, json.BoolOr("norm_topk_prob", !IsV2(config)));
  TANDEM_ASSIGN_OR_RETURN(config.routed_scaling_factor, json.Number("routed_scaling_factor"));
  return absl::OkStatus();
}

absl::StatusOr<std::string> RopeType(const JsonFields& rope) {
  TANDEM_ASSIGN_OR_RETURN(const std::string old_name, rope.StringOr("type", ""));
  TANDEM_ASSIGN_OR_RETURN(const std::string new_name, rope.StringOr("rope_type", old_name));
  if (!old_name.empty() && old_name != new_name)
    return rope.Wrong("rope_type", absl::StrCat("equal to type \"", old_name, "\""));
  return new_name.empty() ? "default" : new_name;
}

absl::Status ReadYarn(const JsonFields& rope, YarnConfig& yarn) {
  // Fields that change the arithmetic and that no published model of the family uses.
  if (rope.Has("attention_factor"))
    return rope.Unsupported("attention_factor", "with a value", "none");
  TANDEM_ASSIGN_OR_RETURN(const bool truncate, rope.BoolOr("truncate", true));
  if (!truncate) return rope.Unsupported("truncate", "false", "true");
  yarn.enabled = true;
  TANDEM_ASSIGN_OR_RETURN(yarn.factor, rope.Number("factor"));
  TANDEM_ASSIGN_OR_RETURN(yarn.original_max_position_embeddings,
                          rope.Int("original_max_position_embeddings", 1, 1 << 28));
  TANDEM_ASSIGN_OR_RETURN(yarn.beta_fast, rope.NumberOr("beta_fast", 32.0));
  TANDEM_ASSIGN_OR_RETURN(yarn.beta_slow, rope.NumberOr("beta_slow", 1.0));
  TANDEM_ASSIGN_OR_RETURN(yarn.mscale, rope.NumberOr("mscale", 1.0));
  TANDEM_ASSIGN_OR_RETURN(yarn.mscale_all_dim, rope.NumberOr("mscale_all_dim", 0.0));
  return absl::OkStatus();
}

absl::Status ReadRope(const JsonFields& json, const std::string& file, ModelConfig& config) {
  TANDEM_ASSIGN_OR_RETURN(config.rope_theta, json.NumberOr("rope_theta", config.rope_theta));
  TANDEM_ASSIGN_OR_RETURN(const bool interleave, json.BoolOr("rope_interleave", true));
  if (!interleave && IsV2(config))
    return json.Unsupported("rope_interleave", "false", "true with model_type deepseek_v2");
  config.rope_layout = interleave ? RopeLayout::kInterleaved : RopeLayout::kSplitHalves;
  // transformers 5 writes rope_parameters, everything before it rope_scaling.
  for (const char* key : {"rope_parameters", "rope_scaling"}) {
    if (!json.Has(key)) continue;
    if (!json.At(key).is_object()) return json.Wrong(key, "an object or null");
    const JsonFields rope(json.At(key), file, absl::StrCat(key, "."));
    TANDEM_ASSIGN_OR_RETURN(config.rope_theta, rope.NumberOr("rope_theta", config.rope_theta));
    TANDEM_ASSIGN_OR_RETURN(const std::string type, RopeType(rope));
    if (type == "yarn") return ReadYarn(rope, config.yarn);
    if (type != "default")
      return rope.Unsupported("type", absl::StrCat("\"", type, "\""), "yarn or default");
    return absl::OkStatus();
  }
  return absl::OkStatus();
}

absl::Status ReadQuantization(const JsonFields& json, const std::string& file,
                              ModelConfig& config) {
  if (!json.Has("quantization_config")) return absl::OkStatus();
  if (!json.At("quantization_config").is_object())
    return json.Wrong("quantization_config", "an object or null");
  const JsonFields quant(json.At("quantization_config"), file, "quantization_config.");
  TANDEM_ASSIGN_OR_RETURN(const std::string method, quant.String("quant_method"));
  if (method != "fp8")
    return quant.Unsupported("quant_method", absl::StrCat("\"", method, "\""), "\"fp8\"");
  TANDEM_ASSIGN_OR_RETURN(const std::string fmt, quant.StringOr("fmt", "e4m3"));
  if (fmt != "e4m3") return quant.Unsupported("fmt", absl::StrCat("\"", fmt, "\""), "\"e4m3\"");
  TANDEM_ASSIGN_OR_RETURN(const std::string scheme, quant.StringOr("activation_scheme", "dynamic"));
  if (scheme != "dynamic")
    return quant.Unsupported("activation_scheme", absl::StrCat("\"", scheme, "\""), "\"dynamic\"");
  const char* key = "weight_block_size";
  if (!quant.Has(key)) return quant.Missing(key, "[rows, cols]");
  const nlohmann::json& block = quant.At(key);
  const auto is_size = [](const nlohmann::json& v) {
    return v.is_number_unsigned() && v.get<uint64_t>() >= 1 && v.get<uint64_t>() <= (1u << 16);
  };
  if (!block.is_array() || block.size() != 2 || !is_size(block[0]) || !is_size(block[1]))
    return quant.Wrong(key, "two integers in [1, 65536]");
  config.fp8_block_rows = block[0].get<int64_t>();
  config.fp8_block_cols = block[1].get<int64_t>();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::vector<int64_t>> ReadEosTokenIds(const JsonFields& json) {
  std::vector<int64_t> ids;
  if (!json.Has("eos_token_id")) return ids;
  const nlohmann::json& value = json.At("eos_token_id");
  const nlohmann::json list = value.is_array() ? value : nlohmann::json::array({value});
  for (const nlohmann::json& id : list) {
    if (!id.is_number_unsigned() || id.get<uint64_t>() > (1u << 24))
      return json.Wrong("eos_token_id", "a token id or a list of them");
    if (std::find(ids.begin(), ids.end(), id.get<int64_t>()) == ids.end())
      ids.push_back(id.get<int64_t>());
  }
  return ids;
}

absl::StatusOr<ModelConfig> ParseHfConfig(const std::string& json_text, const std::string& file) {
  TANDEM_ASSIGN_OR_RETURN(const nlohmann::json object, ParseJsonObject(json_text, file));
  const JsonFields json(object, file);
  ModelConfig config;
  TANDEM_RETURN_IF_ERROR(ReadModelType(json, config));
  TANDEM_ASSIGN_OR_RETURN(config.name, json.StringOr("_name_or_path", ""));
  TANDEM_RETURN_IF_ERROR(RefuseUnsupportedParts(json));
  TANDEM_RETURN_IF_ERROR(ReadSizes(json, config));
  TANDEM_RETURN_IF_ERROR(ReadRouting(json, config));
  TANDEM_ASSIGN_OR_RETURN(config.rms_norm_eps, json.Number("rms_norm_eps"));
  TANDEM_RETURN_IF_ERROR(ReadRope(json, file, config));
  TANDEM_RETURN_IF_ERROR(ReadQuantization(json, file, config));
  TANDEM_ASSIGN_OR_RETURN(config.tie_word_embeddings, json.BoolOr("tie_word_embeddings", false));
  TANDEM_ASSIGN_OR_RETURN(config.bos_token_id, json.IntOr("bos_token_id", -1, 0, 1 << 24));
  TANDEM_ASSIGN_OR_RETURN(config.eos_token_ids, ReadEosTokenIds(json));
  TANDEM_RETURN_IF_ERROR(ValidateConfig(config, file));
  return config;
}

}  // namespace tandem
