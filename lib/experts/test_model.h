// A small model of random weights, synthesized for tests of the store and the service.
#pragma once

#include <string>

#include "lib/base/check.h"
#include "lib/model/synth.h"

namespace tandem {

inline constexpr int64_t kTestHidden = 256;
inline constexpr int64_t kTestExperts = 8;
inline constexpr int64_t kTestTopK = 4;

inline ModelConfig TestConfig() {
  ModelConfig config;
  config.model_type = "deepseek_v2";
  config.name = "worker-test";
  config.vocab_size = 512;
  config.hidden_size = kTestHidden;
  config.num_hidden_layers = 3;
  config.first_k_dense_replace = 1;
  config.intermediate_size = 512;
  config.moe_intermediate_size = 256;
  config.n_routed_experts = kTestExperts;
  config.n_shared_experts = 1;
  config.num_experts_per_tok = kTestTopK;
  config.num_attention_heads = 2;
  config.kv_lora_rank = 64;
  config.qk_nope_head_dim = 32;
  config.qk_rope_head_dim = 32;
  config.v_head_dim = 32;
  config.max_position_embeddings = 512;
  config.bos_token_id = 0;
  config.eos_token_ids = {1};
  return config;
}

// Writes the model as one GGUF file at `path`.
inline void WriteTestModel(const std::string& path, const std::string& format) {
  SynthOptions options;
  options.config = TestConfig();
  const auto parsed = ParseSynthFormat(format, false);
  TANDEM_CHECK(parsed.ok());
  options.format = *parsed;
  options.out = path;
  options.overwrite = true;
  const auto written = SynthesizeModel(options, [](int64_t, int64_t) { return true; });
  if (!written.ok()) base::CheckFailed(__FILE__, __LINE__, std::string(written.status().message()));
}

}  // namespace tandem
