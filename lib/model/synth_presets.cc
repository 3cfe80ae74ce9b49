#include "lib/model/synth_presets.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace tandem {
namespace {

struct Preset {
  const char* name;
  const char* config;
};

// Numbers of the config.json files at huggingface.co/deepseek-ai, except where a comment says so.
constexpr Preset kPresets[] = {
    {"v2-lite", R"({
  "model_type": "deepseek_v2", "architectures": ["DeepseekV2ForCausalLM"],
  "vocab_size": 102400, "bos_token_id": 100000, "eos_token_id": 100001,
  "hidden_size": 2048, "intermediate_size": 10944, "num_hidden_layers": 27,
  "first_k_dense_replace": 1, "n_routed_experts": 64, "n_shared_experts": 2,
  "num_experts_per_tok": 6, "moe_intermediate_size": 1408, "moe_layer_freq": 1,
  "scoring_func": "softmax", "topk_method": "greedy", "n_group": 1, "topk_group": 1,
  "norm_topk_prob": false, "routed_scaling_factor": 1.0,
  "num_attention_heads": 16, "num_key_value_heads": 16, "q_lora_rank": null,
  "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
  "max_position_embeddings": 163840, "rms_norm_eps": 1e-6, "rope_theta": 10000,
  "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1,
    "mscale": 0.707, "mscale_all_dim": 0.707, "original_max_position_embeddings": 4096},
  "hidden_act": "silu", "attention_bias": false, "tie_word_embeddings": false})"},
    // 1 layer of 61, none of them dense; a vocabulary of 8192 instead of 129280 tokens.
    {"v3-layer", R"({
  "model_type": "deepseek_v3", "architectures": ["DeepseekV3ForCausalLM"],
  "vocab_size": 8192, "bos_token_id": 0, "eos_token_id": 1,
  "hidden_size": 7168, "intermediate_size": 18432, "num_hidden_layers": 1,
  "first_k_dense_replace": 0, "n_routed_experts": 256, "n_shared_experts": 1,
  "num_experts_per_tok": 8, "moe_intermediate_size": 2048, "moe_layer_freq": 1,
  "scoring_func": "sigmoid", "topk_method": "noaux_tc", "n_group": 8, "topk_group": 4,
  "norm_topk_prob": true, "routed_scaling_factor": 2.5,
  "num_attention_heads": 128, "num_key_value_heads": 128, "q_lora_rank": 1536,
  "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
  "max_position_embeddings": 163840, "rms_norm_eps": 1e-6, "rope_theta": 10000,
  "rope_scaling": {"type": "yarn", "factor": 40, "beta_fast": 32, "beta_slow": 1,
    "mscale": 1.0, "mscale_all_dim": 1.0, "original_max_position_embeddings": 4096},
  "hidden_act": "silu", "attention_bias": false, "tie_word_embeddings": false})"},
};

}  // namespace

std::vector<std::string> SynthPresetNames() {
  std::vector<std::string> names;
  for (const Preset& preset : kPresets) names.push_back(preset.name);
  return names;
}

absl::StatusOr<std::string> SynthPresetConfig(const std::string& name) {
  for (const Preset& preset : kPresets) {
    if (name == preset.name) return std::string(preset.config);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("preset ", name,
                   " is not known, expected one of: ", absl::StrJoin(SynthPresetNames(), ", ")));
}

}  // namespace tandem
