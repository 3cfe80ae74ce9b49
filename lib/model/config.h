// ModelConfig: the shape of a DeepSeek-class network, read from a Hugging Face config.json or from
// GGUF metadata into one struct. Names follow config.json where it has one. Every dimension is
// checked against the limits below before use.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/model/metadata.h"

namespace tandem {

enum class ScoringFunc { kSoftmax, kSigmoid };
// kGreedy: top-k of scores. kGroupLimitedGreedy (V2): groups ranked by their maximum. kNoAuxTc
// (V3): scores plus bias for the choice, groups ranked by the sum of their two best, weights from
// the unbiased scores.
enum class TopkMethod { kGreedy, kGroupLimitedGreedy, kNoAuxTc };
// How the rope part of q and k is laid out in the weights: pairs (0,1)(2,3).. as DeepSeek ships
// them, or split halves (i, i + d/2) when a converter has permuted the rows. What decides: in
// config.json of deepseek_v3 and kimi_k2 the field `rope_interleave` (true when absent);
// deepseek_v2 and GGUF arch deepseek2 are always interleaved (transformers' V2 code multiplies
// adjacent pairs as complex numbers whatever the config says; llama.cpp uses its "norm" rope and
// converts without permuting).
enum class RopeLayout { kInterleaved, kSplitHalves };

struct YarnConfig {
  double factor = 1.0;  // 1 with enabled == false
  int64_t original_max_position_embeddings = 0;
  double beta_fast = 32.0;
  double beta_slow = 1.0;
  double mscale = 1.0;
  double mscale_all_dim = 0.0;
  bool enabled = false;
};

struct ModelConfig {
  std::string model_type;  // "deepseek_v2", "deepseek_v3", "kimi_k2"
  std::string name;        // for people
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t num_hidden_layers = 0;         // without MTP layers
  int64_t num_nextn_predict_layers = 0;  // MTP layers present in the file and left out
  int64_t first_k_dense_replace = 0;     // layers [0, k) are dense
  int64_t moe_layer_freq = 1;
  int64_t intermediate_size = 0;      // dense layers
  int64_t moe_intermediate_size = 0;  // one expert
  int64_t n_routed_experts = 0;
  int64_t n_shared_experts = 0;  // fused: one FFN of n_shared_experts * moe_intermediate_size
  int64_t num_experts_per_tok = 0;
  int64_t n_group = 1;
  int64_t topk_group = 1;
  ScoringFunc scoring_func = ScoringFunc::kSoftmax;
  TopkMethod topk_method = TopkMethod::kGreedy;
  bool norm_topk_prob = false;
  double routed_scaling_factor = 1.0;
  int64_t num_attention_heads = 0;
  int64_t q_lora_rank = 0;  // 0: plain q projection
  int64_t kv_lora_rank = 0;
  int64_t qk_nope_head_dim = 0;
  int64_t qk_rope_head_dim = 0;
  int64_t v_head_dim = 0;
  double rms_norm_eps = 1e-6;
  double rope_theta = 10000.0;
  YarnConfig yarn;
  RopeLayout rope_layout = RopeLayout::kInterleaved;
  int64_t max_position_embeddings = 0;
  bool tie_word_embeddings = false;
  int64_t bos_token_id = -1;
  std::vector<int64_t> eos_token_ids;
  // fp8 safetensors: block of weight_scale_inv, 0 when the weights are not fp8.
  int64_t fp8_block_rows = 0;
  int64_t fp8_block_cols = 0;
  // Sentences to log once: what was assumed where the file is silent (architecture.md, "Routing of
  // old files").
  std::vector<std::string> assumptions;

  bool IsMoeLayer(int64_t layer) const {
    return n_routed_experts > 0 && layer >= first_k_dense_replace && layer % moe_layer_freq == 0;
  }
  int64_t qk_head_dim() const { return qk_nope_head_dim + qk_rope_head_dim; }
  int64_t kv_row_dim() const {
    return kv_lora_rank + qk_rope_head_dim;
  }  // one cached token, one layer
  // The factor on q.k: qk_head_dim^-1/2, times mscale(factor, mscale_all_dim)^2 under YaRN with
  // mscale_all_dim, as DeepSeek's modeling code has it.
  double SoftmaxScale() const;
  // The factor on cos and sin under YaRN: mscale(factor, mscale) / mscale(factor, mscale_all_dim),
  // 1 without YaRN.
  double RopeMagnitude() const;
};

// Reads config.json text. UNIMPLEMENTED names an unknown model_type, hidden_act or rope type;
// INVALID_ARGUMENT names a missing or impossible field with expected and found. `file` is used in
// messages.
absl::StatusOr<ModelConfig> ParseHfConfig(const std::string& json_text, const std::string& file);

enum class OldFileRouting { kAssume, kAsFile };
// Reads GGUF metadata of arch deepseek2. `has_selection_bias`: the file has exp_probs_b tensors.
absl::StatusOr<ModelConfig> ParseGgufConfig(const Metadata& metadata, bool has_selection_bias,
                                            OldFileRouting routing, const std::string& file);

// Checks that every size is within sane limits and consistent (group divides experts, heads > 0
// ...).
absl::Status ValidateConfig(const ModelConfig& config, const std::string& file);

}  // namespace tandem
