#include "tools/tandem/recipe_report.h"

#include <algorithm>

#include "lib/base/check.h"
#include "lib/base/status_macros.h"
#include "lib/model/recipe_sources.h"

namespace tandem::launcher {
namespace {

constexpr int64_t kBf16Bytes = 2, kF32Bytes = 4;
constexpr int64_t kFp8Block = 128;

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

const FfnWeights* FfnOf(const LayerWeights& layer, TensorRole role) {
  const bool dense = role == TensorRole::kDenseGate || role == TensorRole::kDenseUp ||
                     role == TensorRole::kDenseDown;
  const std::optional<FfnWeights>& ffn = dense ? layer.dense : layer.shared;
  TANDEM_CHECK(ffn.has_value());
  return &*ffn;
}

// The matrix of a module; of a kv_b_proj that the file holds in two parts there is none.
const Matrix* MatrixOf(const ModelWeights& model, const LinearModule& module) {
  if (module.role == TensorRole::kLmHead) return &model.lm_head;
  const LayerWeights& layer = model.layers[module.layer];
  const AttentionWeights& a = layer.attention;
  switch (module.role) {
    case TensorRole::kQ:
      return &*a.q;
    case TensorRole::kQA:
      return &*a.q_a;
    case TensorRole::kQB:
      return &*a.q_b;
    case TensorRole::kKvA:
      return &a.kv_a;
    case TensorRole::kKvB:
      return a.kv_b.has_value() ? &*a.kv_b : nullptr;
    case TensorRole::kO:
      return &a.o;
    case TensorRole::kRouter:
      return &*layer.router;
    case TensorRole::kDenseGate:
    case TensorRole::kSharedGate:
      return &FfnOf(layer, module.role)->gate;
    case TensorRole::kDenseUp:
    case TensorRole::kSharedUp:
      return &FfnOf(layer, module.role)->up;
    case TensorRole::kDenseDown:
    case TensorRole::kSharedDown:
      return &FfnOf(layer, module.role)->down;
    default:
      TANDEM_CHECK(false && "not the role of a linear layer");
      return nullptr;
  }
}

void Count(const Matrix& matrix, SourceReport& source) {
  TypeCount& type = source.types[NameOf(matrix.view.dtype)];
  type.matrices += 1;
  type.bytes += MatrixBytes(matrix);
  source.bytes += MatrixBytes(matrix);
}

void Count(const TensorView& view, SourceReport& source) {
  TypeCount& type = source.types[NameOf(view.dtype)];
  type.matrices += 1;
  type.bytes += view.size_bytes;
  source.bytes += view.size_bytes;
}

// What the layer takes as computed with: values and scales; packing may round up a little.
int64_t ModuleBytes(const AssignedModule& assigned, const std::string& precision,
                    int64_t stored_bytes) {
  const LinearModule& m = assigned.module;
  const int64_t count = m.outputs * m.inputs;
  if (m.kind == ModuleKind::kAlwaysF32 || precision == "f32") return count * kF32Bytes;
  switch (assigned.choice.format) {
    case WeightFormat::kBf16:
      return count * kBf16Bytes;
    case WeightFormat::kFp8:
      return count + CeilDiv(m.outputs, kFp8Block) * CeilDiv(m.inputs, kFp8Block) * kF32Bytes;
    case WeightFormat::kMarlin8:
      return count + m.outputs * CeilDiv(m.inputs, assigned.choice.group) * kBf16Bytes;
    case WeightFormat::kMarlin4:
      return count / 2 + m.outputs * CeilDiv(m.inputs, assigned.choice.group) * kBf16Bytes;
    case WeightFormat::kStored:
      break;
  }
  return stored_bytes;
}

SourceReport DescribeSource(const std::string& pattern, const TensorSource& source,
                            const std::string& path) {
  SourceReport out;
  out.pattern = pattern;
  out.path = path;
  out.container = source.kind() == ContainerKind::kGguf ? "gguf" : "safetensors";
  out.files = source.files();
  return out;
}

void AddModules(const ModelWeights& model, std::vector<AssignedModule> assigned,
                RecipeReport& out) {
  for (AssignedModule& to : assigned) {
    ModuleReport module;
    int64_t stored_bytes = 0;
    if (const Matrix* matrix = MatrixOf(model, to.module)) {
      module.stored = NameOf(matrix->view.dtype);
      stored_bytes = MatrixBytes(*matrix);
      const bool tied_head =
          to.module.role == TensorRole::kLmHead && model.config.tie_word_embeddings;
      if (!tied_head) Count(*matrix, out.dense);
    } else {
      const AttentionWeights& a = model.layers[to.module.layer].attention;
      module.stored = NameOf(a.k_b->dtype);
      Count(*a.k_b, out.dense);
      Count(*a.v_b, out.dense);
    }
    module.bytes = ModuleBytes(to, out.recipe.precision, stored_bytes);
    module.assigned = std::move(to);
    out.gpu_worker_bytes += module.bytes;
    out.modules.push_back(std::move(module));
  }
}

void AddExperts(const ModelWeights& model, RecipeReport& out) {
  for (const LayerWeights& layer : model.layers) {
    for (const FfnWeights& expert : layer.experts) {
      for (const Matrix* matrix : {&expert.gate, &expert.up, &expert.down}) {
        Count(*matrix, out.experts);
      }
      out.experts_bytes += PlacedBytes(expert);
      out.expert_bytes_max = std::max(out.expert_bytes_max, PlacedBytes(expert));
    }
  }
}

}  // namespace

absl::StatusOr<RecipeReport> ReportRecipe(const Recipe& recipe, const std::string& model,
                                          const LoadOptions& options) {
  RecipeReport out;
  out.recipe = recipe;
  out.model = model;
  TANDEM_ASSIGN_OR_RETURN(const ModelSources sources, ResolveSources(recipe, model));
  TANDEM_ASSIGN_OR_RETURN(const ModelWeights weights, LoadModel(sources, options));
  TANDEM_ASSIGN_OR_RETURN(std::vector<AssignedModule> assigned,
                          AssignLinear(recipe, weights.config));
  out.config = weights.config;
  out.digest = weights.digest;
  out.linear_formats = FormatsText(assigned);
  out.dense = DescribeSource(recipe.dense.pattern, *weights.source, sources.dense);
  out.experts = DescribeSource(recipe.experts.pattern, *weights.experts_source, sources.experts);
  Count(weights.embedding, out.dense);
  const int64_t value_bytes = recipe.precision == "f32" ? kF32Bytes : kBf16Bytes;
  const ModelConfig& c = weights.config;
  out.gpu_worker_bytes += c.vocab_size * c.hidden_size * value_bytes;
  out.kv_bytes_per_token = c.num_hidden_layers * c.kv_row_dim() * value_bytes;
  AddModules(weights, std::move(assigned), out);
  AddExperts(weights, out);
  return out;
}

}  // namespace tandem::launcher
