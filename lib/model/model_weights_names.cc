#include "lib/model/model_weights_names.h"

#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "lib/base/check.h"

namespace tandem {
namespace {

struct RoleNames {
  TensorRole role;
  const char* label;
  const char* hf;  // below the layer's prefix where per_layer; {E} is the expert
  const char* gguf;
  bool per_layer;
};

using R = TensorRole;
constexpr RoleNames kNames[] = {
    {R::kEmbedding, "embedding", "model.embed_tokens.weight", "token_embd.weight", false},
    {R::kFinalNorm, "final_norm", "model.norm.weight", "output_norm.weight", false},
    {R::kLmHead, "lm_head", "lm_head.weight", "output.weight", false},
    {R::kAttnNorm, "attn_norm", "input_layernorm.weight", "attn_norm.weight", true},
    {R::kFfnNorm, "ffn_norm", "post_attention_layernorm.weight", "ffn_norm.weight", true},
    {R::kQ, "attn_q", "self_attn.q_proj.weight", "attn_q.weight", true},
    {R::kQA, "attn_q_a", "self_attn.q_a_proj.weight", "attn_q_a.weight", true},
    {R::kQANorm, "attn_q_a_norm", "self_attn.q_a_layernorm.weight", "attn_q_a_norm.weight", true},
    {R::kQB, "attn_q_b", "self_attn.q_b_proj.weight", "attn_q_b.weight", true},
    {R::kKvA, "attn_kv_a", "self_attn.kv_a_proj_with_mqa.weight", "attn_kv_a_mqa.weight", true},
    {R::kKvANorm, "attn_kv_a_norm", "self_attn.kv_a_layernorm.weight", "attn_kv_a_norm.weight",
     true},
    {R::kKvB, "attn_kv_b", "self_attn.kv_b_proj.weight", "attn_kv_b.weight", true},
    {R::kKB, "attn_k_b", "", "attn_k_b.weight", true},
    {R::kVB, "attn_v_b", "", "attn_v_b.weight", true},
    {R::kO, "attn_o", "self_attn.o_proj.weight", "attn_output.weight", true},
    {R::kDenseGate, "dense_gate", "mlp.gate_proj.weight", "ffn_gate.weight", true},
    {R::kDenseUp, "dense_up", "mlp.up_proj.weight", "ffn_up.weight", true},
    {R::kDenseDown, "dense_down", "mlp.down_proj.weight", "ffn_down.weight", true},
    {R::kRouter, "router", "mlp.gate.weight", "ffn_gate_inp.weight", true},
    {R::kRouterBias, "router_bias", "mlp.gate.e_score_correction_bias", "exp_probs_b.bias", true},
    {R::kSharedGate, "shared_gate", "mlp.shared_experts.gate_proj.weight", "ffn_gate_shexp.weight",
     true},
    {R::kSharedUp, "shared_up", "mlp.shared_experts.up_proj.weight", "ffn_up_shexp.weight", true},
    {R::kSharedDown, "shared_down", "mlp.shared_experts.down_proj.weight", "ffn_down_shexp.weight",
     true},
    {R::kExpertGate, "expert_gate", "mlp.experts.{E}.gate_proj.weight", "ffn_gate.{E}.weight",
     true},
    {R::kExpertUp, "expert_up", "mlp.experts.{E}.up_proj.weight", "ffn_up.{E}.weight", true},
    {R::kExpertDown, "expert_down", "mlp.experts.{E}.down_proj.weight", "ffn_down.{E}.weight",
     true},
    {R::kStackedGate, "expert_gate", "", "ffn_gate_exps.weight", true},
    {R::kStackedUp, "expert_up", "", "ffn_up_exps.weight", true},
    {R::kStackedDown, "expert_down", "mlp.experts.down_proj", "ffn_down_exps.weight", true},
    {R::kStackedGateUp, "expert_gate_up", "mlp.experts.gate_up_proj", "ffn_gate_up_exps.weight",
     true},
};
static_assert(sizeof(kNames) / sizeof(kNames[0]) == static_cast<size_t>(R::kCount));

const RoleNames& Row(TensorRole role) {
  const RoleNames& row = kNames[static_cast<size_t>(role)];
  TANDEM_CHECK(row.role == role);
  return row;
}

const char* LayerPrefix(ContainerKind kind) {
  return kind == ContainerKind::kGguf ? "blk." : "model.layers.";
}

}  // namespace

std::string TensorNameOf(ContainerKind kind, TensorRole role, int64_t layer, int64_t expert) {
  const RoleNames& row = Row(role);
  const std::string name = kind == ContainerKind::kGguf ? row.gguf : row.hf;
  if (name.empty() || !row.per_layer) return name;
  return absl::StrCat(LayerPrefix(kind), layer, ".",
                      absl::StrReplaceAll(name, {{"{E}", absl::StrCat(expert)}}));
}

std::string ModulePath(TensorRole role, int64_t layer) {
  const std::string name = TensorNameOf(ContainerKind::kSafetensors, role, layer);
  return std::string(absl::StripSuffix(name, ".weight"));
}

const char* LabelOf(TensorRole role) { return Row(role).label; }

int64_t LayerOfTensorName(ContainerKind kind, const std::string& name) {
  const std::string prefix = LayerPrefix(kind);
  if (!absl::StartsWith(name, prefix)) return -1;
  const size_t dot = name.find('.', prefix.size());
  int64_t layer = -1;
  if (dot == std::string::npos ||
      !absl::SimpleAtoi(name.substr(prefix.size(), dot - prefix.size()), &layer))
    return -1;
  return layer;
}

bool IsRoutedExpertName(ContainerKind kind, const std::string& name) {
  if (LayerOfTensorName(kind, name) < 0) return false;
  if (kind == ContainerKind::kSafetensors) return absl::StrContains(name, ".mlp.experts.");
  // "blk.3.ffn_gate_exps.weight", and "blk.3.ffn_gate.17.weight" in very old files.
  const std::vector<std::string> parts = absl::StrSplit(name, '.');
  int64_t expert = 0;
  return absl::EndsWith(parts[2], "_exps") ||
         (parts.size() == 5 && absl::StartsWith(parts[2], "ffn_") &&
          absl::SimpleAtoi(parts[3], &expert));
}

}  // namespace tandem
