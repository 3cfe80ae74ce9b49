#include "lib/model/synth_plan.h"

#include <cmath>
#include <string_view>

#include "absl/strings/str_cat.h"
#include "lib/model/model_weights_names.h"
#include "lib/model/synth_blocks.h"

namespace tandem {
namespace {

using R = TensorRole;

// FNV-1a, 64 bits.
uint64_t HashOf(std::string_view text) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : text) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

class Planner {
 public:
  explicit Planner(const SynthOptions& options)
      : options_(options), c_(options.config), gguf_(options.container == ContainerKind::kGguf) {}

  std::vector<SynthTensor> Plan() {
    AddMatrix(R::kEmbedding, c_.vocab_size, c_.hidden_size, 0);
    for (int64_t layer = 0; layer < c_.num_hidden_layers; ++layer) AddLayer(layer);
    AddNorm(R::kFinalNorm, c_.hidden_size, 0);
    if (!c_.tie_word_embeddings) AddMatrix(R::kLmHead, c_.vocab_size, c_.hidden_size, 0);
    return std::move(tensors_);
  }

 private:
  // One random matrix per role, layer and expert, whatever tensor it is stored in.
  uint64_t SeedOf(R role, int64_t layer, int64_t expert = 0) const {
    const uint64_t of_role = MixSeed(options_.seed, HashOf(LabelOf(role)));
    return MixSeed(MixSeed(of_role, layer), expert);
  }

  DType TypeOf(R role, int64_t layer, int64_t cols) const {
    return gguf_ ? GgufTypeOf(options_.format, role, layer, c_.num_hidden_layers, cols)
                 : SafetensorsTypeOf(options_.format, role);
  }

  SynthTensor& Add(R role, std::vector<int64_t> shape, int64_t layer, int64_t expert = 0) {
    SynthTensor tensor;
    tensor.plan.name = TensorNameOf(options_.container, role, layer, expert);
    tensor.plan.dtype = TypeOf(role, layer, shape.back());
    tensor.plan.shape = std::move(shape);
    // Keeps x W^T at the size of x.
    tensor.std_dev = 1.0 / std::sqrt(static_cast<double>(tensor.plan.shape.back()));
    tensors_.push_back(std::move(tensor));
    return tensors_.back();
  }

  void AddMatrix(R role, int64_t rows, int64_t cols, int64_t layer, int64_t expert = 0) {
    SynthTensor& tensor = Add(role, {rows, cols}, layer, expert);
    tensor.pieces = {{SeedOf(role, layer, expert), 0, rows}};
    if (role == R::kRouter) tensor.fill = SynthFill::kRouter;
    AddFp8Scales(tensor);
  }

  void AddNorm(R role, int64_t cols, int64_t layer) {
    SynthTensor& tensor = Add(role, {cols}, layer);
    tensor.fill = SynthFill::kNorm;
    tensor.pieces = {{SeedOf(role, layer), 0, 1}};
  }

  // Follows the tensor just added; a copy, because adding moves it.
  void AddFp8Scales(SynthTensor weights) {
    if (weights.plan.dtype != DType::kF8E4M3) return;
    SynthTensor scales = std::move(weights);
    scales.plan.name = absl::StrCat(scales.plan.name, "_scale_inv");
    scales.plan.dtype = DType::kF32;
    std::vector<int64_t>& shape = scales.plan.shape;
    int64_t& rows = shape[shape.size() - 2];
    rows = (rows + c_.fp8_block_rows - 1) / c_.fp8_block_rows;
    shape.back() = (shape.back() + c_.fp8_block_cols - 1) / c_.fp8_block_cols;
    scales.fill = SynthFill::kFp8Scales;
    for (SynthPiece& piece : scales.pieces)
      piece = {MixSeed(piece.seed, HashOf("scales")), 0,
               (piece.rows + c_.fp8_block_rows - 1) / c_.fp8_block_rows};
    tensors_.push_back(std::move(scales));
  }

  void AddLayer(int64_t layer) {
    AddNorm(R::kAttnNorm, c_.hidden_size, layer);
    AddAttention(layer);
    AddNorm(R::kFfnNorm, c_.hidden_size, layer);
    if (c_.IsMoeLayer(layer)) {
      AddMoe(layer);
    } else {
      AddMatrix(R::kDenseGate, c_.intermediate_size, c_.hidden_size, layer);
      AddMatrix(R::kDenseUp, c_.intermediate_size, c_.hidden_size, layer);
      AddMatrix(R::kDenseDown, c_.hidden_size, c_.intermediate_size, layer);
    }
  }

  void AddAttention(int64_t layer) {
    const int64_t q_rows = c_.num_attention_heads * c_.qk_head_dim();
    if (c_.q_lora_rank == 0) {
      AddMatrix(R::kQ, q_rows, c_.hidden_size, layer);
    } else {
      AddMatrix(R::kQA, c_.q_lora_rank, c_.hidden_size, layer);
      AddNorm(R::kQANorm, c_.q_lora_rank, layer);
      AddMatrix(R::kQB, q_rows, c_.q_lora_rank, layer);
    }
    AddMatrix(R::kKvA, c_.kv_row_dim(), c_.hidden_size, layer);
    AddNorm(R::kKvANorm, c_.kv_lora_rank, layer);
    if (gguf_ && !options_.fused_kv_b) {
      AddSplitKvB(layer);
    } else {
      AddMatrix(R::kKvB, c_.num_attention_heads * (c_.qk_nope_head_dim + c_.v_head_dim),
                c_.kv_lora_rank, layer);
    }
    AddMatrix(R::kO, c_.hidden_size, c_.num_attention_heads * c_.v_head_dim, layer);
  }

  void AddSplitKvB(int64_t layer) {
    const int64_t heads = c_.num_attention_heads, nope = c_.qk_nope_head_dim, v = c_.v_head_dim;
    const uint64_t seed = SeedOf(R::kKvB, layer);
    SynthTensor& k_b = Add(R::kKB, {heads, c_.kv_lora_rank, nope}, layer);
    k_b.fill = SynthFill::kTransposedHeads;
    k_b.source_cols = c_.kv_lora_rank;
    k_b.std_dev = 1.0 / std::sqrt(static_cast<double>(c_.kv_lora_rank));
    for (int64_t h = 0; h < heads; ++h) k_b.pieces.push_back({seed, h * (nope + v), nope});
    SynthTensor& v_b = Add(R::kVB, {heads, v, c_.kv_lora_rank}, layer);
    for (int64_t h = 0; h < heads; ++h) v_b.pieces.push_back({seed, h * (nope + v) + nope, v});
  }

  void AddMoe(int64_t layer) {
    AddMatrix(R::kRouter, c_.n_routed_experts, c_.hidden_size, layer);
    if (c_.topk_method == TopkMethod::kNoAuxTc) {
      SynthTensor& bias = Add(R::kRouterBias, {c_.n_routed_experts}, layer);
      bias.fill = SynthFill::kRouterBias;
      bias.pieces = {{SeedOf(R::kRouterBias, layer), 0, 1}};
    }
    AddExperts(layer);
    if (c_.n_shared_experts == 0) return;
    const int64_t inter = c_.n_shared_experts * c_.moe_intermediate_size;
    AddMatrix(R::kSharedGate, inter, c_.hidden_size, layer);
    AddMatrix(R::kSharedUp, inter, c_.hidden_size, layer);
    AddMatrix(R::kSharedDown, c_.hidden_size, inter, layer);
  }

  void AddExperts(int64_t layer) {
    const int64_t inter = c_.moe_intermediate_size, hidden = c_.hidden_size;
    const bool stacked = options_.experts == ExpertLayout::kStackedGateUp ||
                         (options_.experts == ExpertLayout::kUsual && gguf_);
    if (stacked) {
      if (options_.experts == ExpertLayout::kStackedGateUp) {
        AddStacked(R::kStackedGateUp, {R::kStackedGate, R::kStackedUp}, inter, hidden, layer);
      } else {
        AddStacked(R::kStackedGate, {R::kStackedGate}, inter, hidden, layer);
        AddStacked(R::kStackedUp, {R::kStackedUp}, inter, hidden, layer);
      }
      AddStacked(R::kStackedDown, {R::kStackedDown}, hidden, inter, layer);
      return;
    }
    for (int64_t e = 0; e < c_.n_routed_experts; ++e) {
      AddMatrix(R::kExpertGate, inter, hidden, layer, e);
      AddMatrix(R::kExpertUp, inter, hidden, layer, e);
      AddMatrix(R::kExpertDown, hidden, inter, layer, e);
    }
  }

  // `parts`: the matrices of one expert that follow one another, [rows, cols] each.
  void AddStacked(R role, const std::vector<R>& parts, int64_t rows, int64_t cols, int64_t layer) {
    const int64_t rows_of_expert = static_cast<int64_t>(parts.size()) * rows;
    SynthTensor& tensor = Add(role, {c_.n_routed_experts, rows_of_expert, cols}, layer);
    for (int64_t e = 0; e < c_.n_routed_experts; ++e)
      for (const R part : parts) tensor.pieces.push_back({SeedOf(part, layer, e), 0, rows});
    AddFp8Scales(tensor);
  }

  const SynthOptions& options_;
  const ModelConfig& c_;
  const bool gguf_;
  std::vector<SynthTensor> tensors_;
};

}  // namespace

std::vector<SynthTensor> PlanSynthTensors(const SynthOptions& options) {
  return Planner(options).Plan();
}

}  // namespace tandem
