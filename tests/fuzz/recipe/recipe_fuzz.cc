// Feeds arbitrary bytes to the recipe parser and applies what it accepted to a small network: no
// YAML may crash it, and no regular expression may take it hostage.
#include <cstdint>
#include <string>

#include "absl/strings/match.h"
#include "lib/base/check.h"
#include "lib/model/recipe.h"
#include "lib/model/recipe_linear.h"

namespace {

tandem::ModelConfig TinyNetwork() {
  tandem::ModelConfig c;
  c.vocab_size = 256;
  c.hidden_size = 128;
  c.num_hidden_layers = 2;
  c.first_k_dense_replace = 1;
  c.intermediate_size = 192;
  c.moe_intermediate_size = 64;
  c.n_routed_experts = 4;
  c.n_shared_experts = 1;
  c.num_experts_per_tok = 2;
  c.num_attention_heads = 2;
  c.q_lora_rank = 64;
  c.kv_lora_rank = 64;
  c.qk_nope_head_dim = 32;
  c.qk_rope_head_dim = 16;
  c.v_head_dim = 32;
  return c;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const tandem::ModelConfig network = TinyNetwork();
  const std::string text(reinterpret_cast<const char*>(data), size);
  const absl::StatusOr<tandem::Recipe> recipe = tandem::ParseRecipe(text, "fuzz.yaml");
  if (!recipe.ok()) {
    TANDEM_CHECK(absl::StartsWith(recipe.status().message(), "fuzz.yaml"));  // names the file
    return 0;
  }
  TANDEM_CHECK_EQ(recipe->digest.size(), 64u);
  const auto assigned = tandem::AssignLinear(*recipe, network);
  if (assigned.ok()) {
    TANDEM_CHECK_EQ(assigned->size(), tandem::LinearModules(network).size());
    (void)tandem::FormatsText(*assigned);
  } else {
    TANDEM_CHECK(absl::StartsWith(assigned.status().message(), "fuzz.yaml"));
  }
  return 0;
}
