#include "lib/model/config.h"

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "lib/base/status_macros.h"
#include "lib/model/config_fields.h"

namespace tandem {
namespace {

constexpr ConfigIntField kIntFields[] = {
    {"vocab_size", &ModelConfig::vocab_size, 1, 1 << 24},
    {"hidden_size", &ModelConfig::hidden_size, 1, 1 << 17},
    {"num_hidden_layers", &ModelConfig::num_hidden_layers, 1, 1024},
    {"num_nextn_predict_layers", &ModelConfig::num_nextn_predict_layers, 0, 16},
    {"first_k_dense_replace", &ModelConfig::first_k_dense_replace, 0, 1024},
    {"moe_layer_freq", &ModelConfig::moe_layer_freq, 1, 1024},
    {"intermediate_size", &ModelConfig::intermediate_size, 1, 1 << 20},
    {"moe_intermediate_size", &ModelConfig::moe_intermediate_size, 0, 1 << 20},
    {"n_routed_experts", &ModelConfig::n_routed_experts, 0, 4096},
    {"n_shared_experts", &ModelConfig::n_shared_experts, 0, 64},
    {"num_experts_per_tok", &ModelConfig::num_experts_per_tok, 0, 256},
    {"n_group", &ModelConfig::n_group, 1, 256},
    {"topk_group", &ModelConfig::topk_group, 1, 256},
    {"num_attention_heads", &ModelConfig::num_attention_heads, 1, 1024},
    {"q_lora_rank", &ModelConfig::q_lora_rank, 0, 1 << 16},
    {"kv_lora_rank", &ModelConfig::kv_lora_rank, 1, 1 << 16},
    {"qk_nope_head_dim", &ModelConfig::qk_nope_head_dim, 1, 4096},
    {"qk_rope_head_dim", &ModelConfig::qk_rope_head_dim, 2, 4096},
    {"v_head_dim", &ModelConfig::v_head_dim, 1, 4096},
    {"max_position_embeddings", &ModelConfig::max_position_embeddings, 1, 1 << 28},
    {"fp8_block_rows", &ModelConfig::fp8_block_rows, 0, 1 << 16},
    {"fp8_block_cols", &ModelConfig::fp8_block_cols, 0, 1 << 16},
};

absl::Status Invalid(const std::string& file, const std::string& what) {
  return absl::InvalidArgumentError(absl::StrCat(file, ": ", what));
}

// DeepSeek's yarn_get_mscale: 0.1 * mscale * ln(factor) + 1 above factor 1.
double YarnMagnitude(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

absl::Status ValidateRouting(const ModelConfig& c, const std::string& file) {
  if (c.n_routed_experts == 0) return absl::OkStatus();
  if (c.moe_intermediate_size < 1)
    return Invalid(file,
                   "moe_intermediate_size must be positive when there are routed experts, found 0");
  if (c.num_experts_per_tok < 1 || c.num_experts_per_tok > c.n_routed_experts)
    return Invalid(file, absl::StrFormat(
                             "num_experts_per_tok must lie in [1, n_routed_experts = %d], found %d",
                             c.n_routed_experts, c.num_experts_per_tok));
  if (c.n_routed_experts % c.n_group != 0)
    return Invalid(file, absl::StrFormat("n_group must divide n_routed_experts = %d, found %d",
                                         c.n_routed_experts, c.n_group));
  if (c.topk_group > c.n_group)
    return Invalid(file, absl::StrFormat("topk_group must be at most n_group = %d, found %d",
                                         c.n_group, c.topk_group));
  const int64_t group_size = c.n_routed_experts / c.n_group;
  // V3 ranks a group by its two best experts.
  if (c.topk_method == TopkMethod::kNoAuxTc && c.n_group > 1 && group_size < 2)
    return Invalid(file,
                   absl::StrFormat(
                       "noaux_tc routing needs groups of at least 2 experts, found %d groups of %d",
                       c.n_group, group_size));
  if (c.num_experts_per_tok > c.topk_group * group_size)
    return Invalid(
        file,
        absl::StrFormat("num_experts_per_tok must be at most the %d experts of topk_group = %d "
                        "groups, found %d",
                        c.topk_group * group_size, c.topk_group, c.num_experts_per_tok));
  return absl::OkStatus();
}

absl::Status ValidateNumbers(const ModelConfig& c, const std::string& file) {
  const auto check = [&](const char* key, double value, double min, double max) -> absl::Status {
    if (value >= min && value <= max) return absl::OkStatus();
    return Invalid(
        file, absl::StrFormat("%s must be a number in [%g, %g], found %g", key, min, max, value));
  };
  TANDEM_RETURN_IF_ERROR(check("rms_norm_eps", c.rms_norm_eps, 1e-12, 0.1));
  TANDEM_RETURN_IF_ERROR(check("rope_theta", c.rope_theta, 1.0, 1e12));
  TANDEM_RETURN_IF_ERROR(check("routed_scaling_factor", c.routed_scaling_factor, 1e-6, 1e6));
  if (!c.yarn.enabled) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(check("rope_scaling.factor", c.yarn.factor, 1.0, 1e6));
  TANDEM_RETURN_IF_ERROR(check("rope_scaling.beta_fast", c.yarn.beta_fast, 1e-3, 1e6));
  TANDEM_RETURN_IF_ERROR(check("rope_scaling.beta_slow", c.yarn.beta_slow, 1e-3, 1e6));
  TANDEM_RETURN_IF_ERROR(check("rope_scaling.mscale", c.yarn.mscale, 0.0, 1e3));
  TANDEM_RETURN_IF_ERROR(check("rope_scaling.mscale_all_dim", c.yarn.mscale_all_dim, 0.0, 1e3));
  return check("rope_scaling.original_max_position_embeddings",
               static_cast<double>(c.yarn.original_max_position_embeddings), 1, 1 << 28);
}

absl::Status ValidateTokens(const ModelConfig& c, const std::string& file) {
  if (c.bos_token_id < -1 || c.bos_token_id >= c.vocab_size)
    return Invalid(file, absl::StrFormat("bos_token_id must lie below vocab_size = %d, found %d",
                                         c.vocab_size, c.bos_token_id));
  for (const int64_t id : c.eos_token_ids)
    if (id < 0 || id >= c.vocab_size)
      return Invalid(file,
                     absl::StrFormat("eos_token_id must lie in [0, vocab_size = %d), found %d",
                                     c.vocab_size, id));
  return absl::OkStatus();
}

}  // namespace

std::span<const ConfigIntField> ConfigIntFields() { return kIntFields; }

const char* NameOf(ScoringFunc scoring) {
  return scoring == ScoringFunc::kSigmoid ? "sigmoid" : "softmax";
}

const char* NameOf(TopkMethod method) {
  switch (method) {
    case TopkMethod::kGreedy:
      return "greedy";
    case TopkMethod::kGroupLimitedGreedy:
      return "group_limited_greedy";
    case TopkMethod::kNoAuxTc:
      return "noaux_tc";
  }
  return "greedy";
}

double ModelConfig::SoftmaxScale() const {
  const double scale = 1.0 / std::sqrt(static_cast<double>(qk_head_dim()));
  if (!yarn.enabled || yarn.mscale_all_dim == 0.0) return scale;
  const double magnitude = YarnMagnitude(yarn.factor, yarn.mscale_all_dim);
  return scale * magnitude * magnitude;
}

double ModelConfig::RopeMagnitude() const {
  if (!yarn.enabled) return 1.0;
  return YarnMagnitude(yarn.factor, yarn.mscale) / YarnMagnitude(yarn.factor, yarn.mscale_all_dim);
}

absl::Status ValidateConfig(const ModelConfig& config, const std::string& file) {
  for (const ConfigIntField& field : kIntFields) {
    const int64_t value = config.*field.member;
    if (value < field.min || value > field.max)
      return Invalid(file, absl::StrFormat("%s must be an integer in [%d, %d], found %d", field.key,
                                           field.min, field.max, value));
  }
  if (config.first_k_dense_replace > config.num_hidden_layers)
    return Invalid(
        file,
        absl::StrFormat("first_k_dense_replace must be at most num_hidden_layers = %d, found %d",
                        config.num_hidden_layers, config.first_k_dense_replace));
  if (config.qk_rope_head_dim % 2 != 0)
    return Invalid(
        file, absl::StrFormat("qk_rope_head_dim must be even, found %d", config.qk_rope_head_dim));
  TANDEM_RETURN_IF_ERROR(ValidateRouting(config, file));
  TANDEM_RETURN_IF_ERROR(ValidateNumbers(config, file));
  return ValidateTokens(config, file);
}

std::string CanonicalConfigText(const ModelConfig& c) {
  std::string text = absl::StrCat("model_type=", c.model_type, "\n");
  for (const ConfigIntField& field : kIntFields)
    absl::StrAppend(&text, field.key, "=", c.*field.member, "\n");
  absl::StrAppend(&text, "scoring_func=", NameOf(c.scoring_func),
                  "\ntopk_method=", NameOf(c.topk_method), "\nnorm_topk_prob=", c.norm_topk_prob,
                  "\ntie_word_embeddings=", c.tie_word_embeddings,
                  "\nrope_interleave=", c.rope_layout == RopeLayout::kInterleaved,
                  "\nbos_token_id=", c.bos_token_id,
                  "\neos_token_id=", absl::StrJoin(c.eos_token_ids, ","), "\n");
  absl::StrAppendFormat(&text,
                        "routed_scaling_factor=%.17g\nrms_norm_eps=%.17g\nrope_theta=%.17g\n",
                        c.routed_scaling_factor, c.rms_norm_eps, c.rope_theta);
  if (c.yarn.enabled)
    absl::StrAppendFormat(&text, "yarn=%.17g,%d,%.17g,%.17g,%.17g,%.17g\n", c.yarn.factor,
                          c.yarn.original_max_position_embeddings, c.yarn.beta_fast,
                          c.yarn.beta_slow, c.yarn.mscale, c.yarn.mscale_all_dim);
  return text;
}

}  // namespace tandem
