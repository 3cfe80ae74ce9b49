#include "lib/model/config_write.h"

#include "absl/strings/str_cat.h"
#include "lib/model/config_fields.h"
#include "nlohmann/json.hpp"

namespace tandem {
namespace {

using nlohmann::json;

json YarnJson(const YarnConfig& yarn) {
  return {{"type", "yarn"},
          {"factor", yarn.factor},
          {"original_max_position_embeddings", yarn.original_max_position_embeddings},
          {"beta_fast", yarn.beta_fast},
          {"beta_slow", yarn.beta_slow},
          {"mscale", yarn.mscale},
          {"mscale_all_dim", yarn.mscale_all_dim}};
}

json EosJson(const std::vector<int64_t>& ids) {
  if (ids.empty()) return nullptr;
  return ids.size() == 1 ? json(ids[0]) : json(ids);
}

// Adds keys below "deepseek2.".
class GgufKeys {
 public:
  void General(const std::string& key, GgufValue value) {
    keys_.emplace_back(key, std::move(value));
  }
  void Count(const char* key, int64_t value) { Add(key, static_cast<uint32_t>(value)); }
  void Real(const char* key, double value) { Add(key, static_cast<float>(value)); }
  void Add(const char* key, GgufValue value) {
    keys_.emplace_back(absl::StrCat("deepseek2.", key), std::move(value));
  }
  GgufKeyValues Take() { return std::move(keys_); }

 private:
  GgufKeyValues keys_;
};

void AddHeads(const ModelConfig& c, bool fused_kv_b, GgufKeys& out) {
  out.Count("attention.head_count", c.num_attention_heads);
  out.Count("attention.head_count_kv", fused_kv_b ? c.num_attention_heads : 1);
  if (c.q_lora_rank > 0) out.Count("attention.q_lora_rank", c.q_lora_rank);
  out.Count("attention.kv_lora_rank", c.kv_lora_rank);
  out.Count("attention.key_length", fused_kv_b ? c.qk_head_dim() : c.kv_row_dim());
  out.Count("attention.value_length", fused_kv_b ? c.v_head_dim : c.kv_lora_rank);
  if (fused_kv_b) return;
  out.Count("attention.key_length_mla", c.qk_head_dim());
  out.Count("attention.value_length_mla", c.v_head_dim);
}

void AddExperts(const ModelConfig& c, GgufKeys& out) {
  out.Count("leading_dense_block_count", c.first_k_dense_replace);
  if (c.n_routed_experts == 0) return;
  out.Count("expert_count", c.n_routed_experts);
  out.Count("expert_used_count", c.num_experts_per_tok);
  out.Count("expert_shared_count", c.n_shared_experts);
  out.Count("expert_feed_forward_length", c.moe_intermediate_size);
  out.Count("expert_group_count", c.n_group);
  out.Count("expert_group_used_count", c.topk_group);
  out.Count("expert_gating_func", c.scoring_func == ScoringFunc::kSigmoid ? 2 : 1);
  out.Add("expert_weights_norm", c.norm_topk_prob);
  out.Real("expert_weights_scale", c.routed_scaling_factor);
}

void AddRope(const ModelConfig& c, GgufKeys& out) {
  out.Count("rope.dimension_count", c.qk_rope_head_dim);
  out.Real("rope.freq_base", c.rope_theta);
  if (!c.yarn.enabled) return;
  out.Add("rope.scaling.type", std::string("yarn"));
  out.Real("rope.scaling.factor", c.yarn.factor);
  out.Count("rope.scaling.original_context_length", c.yarn.original_max_position_embeddings);
  // A tenth of mscale_all_dim: a habit of the first converter that all readers undo.
  out.Real("rope.scaling.yarn_log_multiplier", 0.1 * c.yarn.mscale_all_dim);
  out.Real("rope.scaling.yarn_beta_fast", c.yarn.beta_fast);
  out.Real("rope.scaling.yarn_beta_slow", c.yarn.beta_slow);
}

}  // namespace

std::string HfConfigJson(const ModelConfig& c, const std::string& torch_dtype) {
  json out = {{"model_type", c.model_type},
              {"architectures",
               {c.model_type == "deepseek_v2" ? "DeepseekV2ForCausalLM" : "DeepseekV3ForCausalLM"}},
              {"hidden_act", "silu"},
              {"attention_bias", false},
              {"num_key_value_heads", c.num_attention_heads},
              {"scoring_func", NameOf(c.scoring_func)},
              {"topk_method", NameOf(c.topk_method)},
              {"norm_topk_prob", c.norm_topk_prob},
              {"routed_scaling_factor", c.routed_scaling_factor},
              {"rms_norm_eps", c.rms_norm_eps},
              {"rope_theta", c.rope_theta},
              {"rope_scaling", c.yarn.enabled ? YarnJson(c.yarn) : json(nullptr)},
              {"tie_word_embeddings", c.tie_word_embeddings},
              {"bos_token_id", c.bos_token_id < 0 ? json(nullptr) : json(c.bos_token_id)},
              {"eos_token_id", EosJson(c.eos_token_ids)},
              {"torch_dtype", torch_dtype}};
  for (const ConfigIntField& field : ConfigIntFields()) out[field.key] = c.*field.member;
  out.erase("fp8_block_rows");
  out.erase("fp8_block_cols");
  if (c.q_lora_rank == 0) out["q_lora_rank"] = nullptr;
  if (c.n_routed_experts == 0) out["n_routed_experts"] = nullptr;
  if (c.model_type != "deepseek_v2")
    out["rope_interleave"] = c.rope_layout == RopeLayout::kInterleaved;
  if (c.fp8_block_rows > 0)
    out["quantization_config"] = {{"quant_method", "fp8"},
                                  {"fmt", "e4m3"},
                                  {"activation_scheme", "dynamic"},
                                  {"weight_block_size", {c.fp8_block_rows, c.fp8_block_cols}}};
  return out.dump(2) + "\n";
}

absl::StatusOr<GgufKeyValues> GgufConfigKeys(const ModelConfig& c, bool fused_kv_b) {
  if (c.rope_layout != RopeLayout::kInterleaved)
    return absl::UnimplementedError(
        "GGUF arch deepseek2 has interleaved rope, found rope_interleave false");
  if (c.n_routed_experts > 0 && c.moe_layer_freq != 1)
    return absl::UnimplementedError(
        absl::StrCat("GGUF arch deepseek2 has moe_layer_freq 1, found ", c.moe_layer_freq));
  if (c.yarn.enabled && c.yarn.mscale != c.yarn.mscale_all_dim)
    return absl::UnimplementedError(
        absl::StrCat("GGUF arch deepseek2 has one mscale, found mscale ", c.yarn.mscale,
                     " and mscale_all_dim ", c.yarn.mscale_all_dim));
  GgufKeys out;
  out.General("general.architecture", std::string("deepseek2"));
  out.General("general.name", c.name);
  out.Count("block_count", c.num_hidden_layers);
  out.Count("context_length", c.max_position_embeddings);
  out.Count("embedding_length", c.hidden_size);
  out.Count("feed_forward_length", c.intermediate_size);
  out.Count("vocab_size", c.vocab_size);
  out.Real("attention.layer_norm_rms_epsilon", c.rms_norm_eps);
  AddHeads(c, fused_kv_b, out);
  AddExperts(c, out);
  AddRope(c, out);
  return out.Take();
}

}  // namespace tandem
