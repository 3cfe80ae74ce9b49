#include "tools/tandem_model/summary.h"

#include <algorithm>
#include <filesystem>
#include <limits>
#include <string_view>

#include "absl/strings/str_cat.h"

namespace tandem {
namespace {

constexpr int64_t kBf16Bytes = 2;

class Counter {
 public:
  explicit Counter(ModelSummary& out) : out_(out) {}

  void Add(const char* role, const TensorView& view, int64_t scale_bytes = 0) {
    const int64_t parameters = view.rows() * view.cols();
    RoleFormat& entry = out_.formats[role][NameOf(view.dtype)];
    entry.tensors += 1;
    entry.parameters += parameters;
    entry.bytes += view.size_bytes + scale_bytes;
    out_.parameters_total += parameters;
    out_.weight_bytes += view.size_bytes + scale_bytes;
  }
  void Add(const char* role, const Matrix& m) {
    Add(role, m.view, m.scale_inv ? m.scale_inv->size_bytes : 0);
  }
  void Add(const char* role, const FfnWeights& ffn) {
    Add(role, ffn.gate);
    Add(role, ffn.up);
    Add(role, ffn.down);
  }
  template <typename T>
  void Add(const char* role, const std::optional<T>& part) {
    if (part.has_value()) Add(role, *part);
  }

 private:
  ModelSummary& out_;
};

void CountAttention(const AttentionWeights& a, Counter& counter) {
  for (const auto* matrix : {&a.q, &a.q_a, &a.q_b, &a.kv_b}) counter.Add("attention", *matrix);
  for (const auto* tensor : {&a.k_b, &a.v_b}) counter.Add("attention", *tensor);
  counter.Add("attention", a.kv_a);
  counter.Add("attention", a.o);
  counter.Add("norms", a.q_a_norm);
  counter.Add("norms", a.kv_a_norm);
}

void CountLayer(const LayerWeights& layer, Counter& counter) {
  counter.Add("norms", layer.attn_norm);
  counter.Add("norms", layer.ffn_norm);
  CountAttention(layer.attention, counter);
  counter.Add("dense layers", layer.dense);
  counter.Add("router", layer.router);
  counter.Add("router", layer.router_bias);
  counter.Add("shared experts", layer.shared);
  for (const FfnWeights& expert : layer.experts) counter.Add("routed experts", expert);
}

}  // namespace

ModelSummary SummarizeModel(const ModelWeights& model) {
  ModelSummary out;
  Counter counter(out);
  const ModelConfig& c = model.config;
  counter.Add("embedding", model.embedding);
  if (!c.tie_word_embeddings) counter.Add("lm_head", model.lm_head);
  counter.Add("norms", model.final_norm);
  out.expert_bytes_min = std::numeric_limits<int64_t>::max();
  int64_t moe_layers = 0;
  for (const LayerWeights& layer : model.layers) {
    CountLayer(layer, counter);
    moe_layers += layer.experts.empty() ? 0 : 1;
    for (const FfnWeights& expert : layer.experts) {
      out.expert_bytes_min = std::min(out.expert_bytes_min, PlacedBytes(expert));
      out.expert_bytes_max = std::max(out.expert_bytes_max, PlacedBytes(expert));
    }
  }
  if (moe_layers == 0) out.expert_bytes_min = 0;
  const int64_t idle_experts = moe_layers * (c.n_routed_experts - c.num_experts_per_tok);
  const int64_t idle_rows = c.tie_word_embeddings ? 0 : c.vocab_size - 1;
  out.parameters_active = out.parameters_total -
                          idle_experts * 3 * c.moe_intermediate_size * c.hidden_size -
                          idle_rows * c.hidden_size;
  out.kv_bytes_per_token = c.num_hidden_layers * c.kv_row_dim() * kBf16Bytes;
  return out;
}

std::string TokenizerOf(const ModelWeights& model) {
  namespace fs = std::filesystem;
  if (model.source->kind() == ContainerKind::kGguf) {
    const Metadata& m = model.source->metadata();
    const absl::StatusOr<std::string> kind = m.GetString("tokenizer.ggml.model");
    if (!kind.ok() || !m.Has("tokenizer.ggml.tokens")) return "";
    const absl::StatusOr<std::string> pre = m.GetString("tokenizer.ggml.pre");
    return absl::StrCat("GGUF metadata (", *kind, ", ", pre.ok() ? *pre : "no pre-tokenizer named",
                        ")");
  }
  const fs::path path = model.source->path();
  const fs::path folder = fs::is_directory(path) ? path : path.parent_path();
  for (const char* name : {"tokenizer.json", "tiktoken.model"})
    if (fs::exists(folder / name)) return name;
  return "";
}

}  // namespace tandem
