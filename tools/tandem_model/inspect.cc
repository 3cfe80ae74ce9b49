#include "tools/tandem_model/inspect.h"

#include <string_view>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/model/config_fields.h"
#include "nlohmann/json.hpp"
#include "tools/tandem_model/summary.h"

namespace tandem {
namespace {

using nlohmann::json;

// "671.03 B", "16.1 M".
std::string HumanCount(int64_t count) {
  const double value = static_cast<double>(count);
  if (value >= 1e9) return absl::StrFormat("%.2f B", value / 1e9);
  if (value >= 1e6) return absl::StrFormat("%.1f M", value / 1e6);
  return absl::StrCat(count);
}

const char* ContainerName(ContainerKind kind) {
  return kind == ContainerKind::kGguf ? "GGUF" : "safetensors";
}

std::string AttentionText(const ModelConfig& c) {
  return absl::StrFormat("%d heads, q_lora %s, kv_lora %d, nope %d + rope %d, v %d",
                         c.num_attention_heads,
                         c.q_lora_rank > 0 ? absl::StrCat(c.q_lora_rank) : "none", c.kv_lora_rank,
                         c.qk_nope_head_dim, c.qk_rope_head_dim, c.v_head_dim);
}

std::string RoutingText(const ModelConfig& c) {
  if (c.n_routed_experts == 0) return "none (dense model)";
  return absl::StrFormat(
      "%d experts + %d shared, top %d, groups %d of %d, %s, %s, weights %s, times %g",
      c.n_routed_experts, c.n_shared_experts, c.num_experts_per_tok, c.topk_group, c.n_group,
      NameOf(c.scoring_func), NameOf(c.topk_method), c.norm_topk_prob ? "normalised" : "as scored",
      c.routed_scaling_factor);
}

std::string RopeText(const ModelConfig& c) {
  const char* layout = c.rope_layout == RopeLayout::kInterleaved ? "interleaved" : "split halves";
  if (!c.yarn.enabled) return absl::StrFormat("%s, theta %g", layout, c.rope_theta);
  return absl::StrFormat("%s, theta %g, yarn factor %g over %d, beta %g/%g, mscale %g/%g", layout,
                         c.rope_theta, c.yarn.factor, c.yarn.original_max_position_embeddings,
                         c.yarn.beta_fast, c.yarn.beta_slow, c.yarn.mscale, c.yarn.mscale_all_dim);
}

void AppendLine(std::string& out, const char* label, const std::string& value) {
  absl::StrAppendFormat(&out, "%-15s %s\n", label, value);
}

void AppendFormats(const ModelSummary& summary, std::string& out) {
  out += "\nformats           matrices   parameters         size\n";
  for (const auto& [role, formats] : summary.formats)
    for (const auto& [format, entry] : formats)
      absl::StrAppendFormat(&out, "  %-15s %-8s %8d %12s %12s\n", role, format, entry.tensors,
                            HumanCount(entry.parameters), base::HumanBytes(entry.bytes));
}

std::string TextReport(const ModelWeights& model, const ModelSummary& summary, bool tensors) {
  const ModelConfig& c = model.config;
  const std::string tokenizer = TokenizerOf(model);
  std::string out;
  AppendLine(out, "model", c.name.empty() ? "(no name)" : c.name);
  AppendLine(out, "architecture",
             absl::StrCat(c.model_type, " in ", ContainerName(model.source->kind()), ", ",
                          model.source->files().size(), " file(s), ",
                          model.source->tensors().size(), " tensors"));
  AppendLine(out, "layers",
             absl::StrFormat("%d (%d dense first), hidden %d, dense ffn %d, expert ffn %d",
                             c.num_hidden_layers, c.first_k_dense_replace, c.hidden_size,
                             c.intermediate_size, c.moe_intermediate_size));
  if (c.num_nextn_predict_layers > 0)
    AppendLine(out, "left out",
               absl::StrCat(c.num_nextn_predict_layers, " multi-token-prediction layer(s)"));
  AppendLine(out, "attention", AttentionText(c));
  AppendLine(out, "experts", RoutingText(c));
  AppendLine(out, "rope", RopeText(c));
  AppendLine(
      out, "vocabulary",
      absl::StrFormat("%d, bos %d, eos %s%s", c.vocab_size, c.bos_token_id,
                      absl::StrJoin(c.eos_token_ids, " "), c.tie_word_embeddings ? ", tied" : ""));
  AppendLine(out, "context", absl::StrCat(c.max_position_embeddings, " tokens"));
  AppendLine(out, "tokenizer", tokenizer.empty() ? "none in the files" : tokenizer);
  AppendLine(out, "parameters",
             absl::StrCat(HumanCount(summary.parameters_total), " in all, ",
                          HumanCount(summary.parameters_active), " per token"));
  AppendLine(out, "weights", base::HumanBytes(summary.weight_bytes));
  const bool mixed = summary.expert_bytes_min != summary.expert_bytes_max;
  if (summary.expert_bytes_max > 0)
    AppendLine(out, "one expert",
               mixed ? absl::StrCat(base::HumanBytes(summary.expert_bytes_min), " to ",
                                    base::HumanBytes(summary.expert_bytes_max))
                     : base::HumanBytes(summary.expert_bytes_max));
  AppendLine(out, "KV cache", absl::StrCat(summary.kv_bytes_per_token, " bytes a token in bf16"));
  AppendLine(out, "digest", model.digest);
  for (const std::string& assumption : c.assumptions) AppendLine(out, "assumed", assumption);
  AppendFormats(summary, out);
  if (!tensors) return out;
  out += "\ntensors\n";
  for (const TensorView& tensor : model.source->tensors())
    absl::StrAppend(&out, "  ", tensor.name, "  ", tensor.Describe(), "  ",
                    base::HumanBytes(tensor.size_bytes), "\n");
  return out;
}

json ConfigJson(const ModelConfig& c) {
  json out = {{"model_type", c.model_type},
              {"scoring_func", NameOf(c.scoring_func)},
              {"topk_method", NameOf(c.topk_method)},
              {"norm_topk_prob", c.norm_topk_prob},
              {"routed_scaling_factor", c.routed_scaling_factor},
              {"rms_norm_eps", c.rms_norm_eps},
              {"rope_theta", c.rope_theta},
              {"rope_interleave", c.rope_layout == RopeLayout::kInterleaved},
              {"tie_word_embeddings", c.tie_word_embeddings},
              {"bos_token_id", c.bos_token_id},
              {"eos_token_ids", c.eos_token_ids}};
  for (const ConfigIntField& field : ConfigIntFields()) out[field.key] = c.*field.member;
  if (!c.yarn.enabled) return out;
  out["yarn"] = {{"factor", c.yarn.factor},
                 {"original_max_position_embeddings", c.yarn.original_max_position_embeddings},
                 {"beta_fast", c.yarn.beta_fast},
                 {"beta_slow", c.yarn.beta_slow},
                 {"mscale", c.yarn.mscale},
                 {"mscale_all_dim", c.yarn.mscale_all_dim}};
  return out;
}

std::string JsonReport(const ModelWeights& model, const ModelSummary& summary, bool tensors) {
  json out = {{"name", model.config.name},
              {"container", ContainerName(model.source->kind())},
              {"files", model.source->files()},
              {"config", ConfigJson(model.config)},
              {"assumptions", model.config.assumptions},
              {"tokenizer", TokenizerOf(model)},
              {"parameters_total", summary.parameters_total},
              {"parameters_active", summary.parameters_active},
              {"weight_bytes", summary.weight_bytes},
              {"expert_bytes_min", summary.expert_bytes_min},
              {"expert_bytes_max", summary.expert_bytes_max},
              {"kv_bytes_per_token", summary.kv_bytes_per_token},
              {"digest", model.digest}};
  for (const auto& [role, formats] : summary.formats)
    for (const auto& [format, entry] : formats)
      out["formats"][role][format] = {
          {"matrices", entry.tensors}, {"parameters", entry.parameters}, {"bytes", entry.bytes}};
  if (tensors) {
    out["tensors"] = json::array();
    for (const TensorView& tensor : model.source->tensors())
      out["tensors"].push_back({{"name", tensor.name},
                                {"type", NameOf(tensor.dtype)},
                                {"shape", tensor.shape},
                                {"bytes", tensor.size_bytes}});
  }
  // Names from files may hold bytes that are no UTF-8.
  return out.dump(2, ' ', false, json::error_handler_t::replace) + "\n";
}

}  // namespace

absl::StatusOr<std::string> InspectModel(const std::string& path, const InspectOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const ModelWeights model, LoadModel(path, options.load));
  const ModelSummary summary = SummarizeModel(model);
  return options.json ? JsonReport(model, summary, options.tensors)
                      : TextReport(model, summary, options.tensors);
}

}  // namespace tandem
