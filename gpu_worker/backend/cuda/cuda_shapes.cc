#include "gpu_worker/backend/cuda/cuda_shapes.h"

#include <algorithm>
#include <optional>

namespace tandem::gpu_worker::cuda {
namespace {

// The largest scratch that any linear layer wants.
size_t LargestLinearWorkspace(const ShapeInputs& in) {
  size_t largest = 0;
  const auto look = [&](const DeviceMatrix& w, int64_t rows) {
    if (w.outputs == 0) return;
    largest = std::max(largest, LinearWorkspaceBytes(in.kernels, w, rows));
  };
  const auto look_at_pair = [&](const CudaPair& pair) {
    for (const DeviceMatrix& w : {pair.both, pair.first, pair.second}) look(w, in.rows_max);
  };
  const auto look_at_ffn = [&](const std::optional<CudaFfn>& ffn) {
    if (!ffn.has_value()) return;
    look_at_pair(ffn->gate_up);
    look(ffn->down, in.rows_max);
  };
  for (const CudaLayer& l : in.weights->layers) {
    look_at_pair(l.q_kv_a);
    for (const DeviceMatrix& w : {l.q_b, l.absorb, l.value_up, l.o, l.router}) {
      look(w, in.rows_max);
    }
    look_at_ffn(l.dense);
    look_at_ffn(l.shared);
  }
  look(in.weights->head, in.logit_rows_max);
  return largest;
}

// The widest row that ranks put together, and the widest part of one.
void WidthsOfGathers(const ShapeInputs& in, ScratchShape* shape) {
  const auto look = [&](const Split& split) {
    shape->part_cols_max = std::max(shape->part_cols_max, split.part_max());
    shape->gathered_cols_max = std::max(shape->gathered_cols_max, split.total());
  };
  look(in.weights->embedding_split);
  look(in.plan->attended());
  for (const CudaLayer& layer : in.weights->layers) {
    look(layer.o_split);
    for (const std::optional<CudaFfn>* ffn : {&layer.dense, &layer.shared}) {
      if (!ffn->has_value()) continue;
      look((*ffn)->inter);
      look((*ffn)->hidden);
    }
  }
}

// Rows between two products of a layer, and those of them that are quantized for the second. Of
// several ranks what is gathered is not.
void WidthsWithinLayers(const ShapeInputs& in, ScratchShape* shape) {
  const auto widen = [](int64_t* most, int64_t cols) { *most = std::max(*most, cols); };
  for (const CudaLayer& layer : in.weights->layers) {
    widen(&shape->q_kv_stride, layer.q_kv_a.stride);
    if (ReadsFp8(layer, NormSite::kBeforeAttention) || ReadsFp8(layer, NormSite::kBeforeFfn)) {
      shape->normed_fp8_cols = in.config->hidden_size;
    }
    if (IsFp8(layer.q_b)) widen(&shape->inner_fp8_cols, in.config->q_lora_rank);
    for (const std::optional<CudaFfn>* ffn : {&layer.dense, &layer.shared}) {
      if (!ffn->has_value()) continue;
      widen(&shape->gate_up_stride, (*ffn)->gate_up.stride);
      if (IsFp8((*ffn)->down)) widen(&shape->inner_fp8_cols, (*ffn)->inter.part_max());
    }
  }
}

}  // namespace

bool ReadsFp8(const CudaLayer& layer, NormSite site) {
  if (site == NormSite::kBeforeAttention) return layer.q_kv_a.ReadsFp8();
  const std::optional<CudaFfn>& ffn = layer.dense.has_value() ? layer.dense : layer.shared;
  return ffn.has_value() && ffn->gate_up.ReadsFp8();
}

ScratchShape ScratchShapeOf(const ShapeInputs& in) {
  const ModelConfig& config = *in.config;
  ScratchShape shape;
  shape.storage = in.storage;
  shape.kernels = in.kernels;
  shape.absorbed = in.attention == AttentionKernel::kFlash;
  shape.step.mla = {.heads = in.plan->heads().of(in.rank).size(),
                    .latent = config.kv_lora_rank,
                    .rope = config.qk_rope_head_dim,
                    .nope = config.qk_nope_head_dim,
                    .v = config.v_head_dim,
                    .softmax_scale = static_cast<float>(config.SoftmaxScale()),
                    .whole_heads = config.num_attention_heads};
  shape.step.rows_max = in.rows_max;
  // A graph's page tables have one stride: that of the longest sequence there may be.
  const int64_t context_pages = (config.max_position_embeddings + kPageTokens - 1) / kPageTokens;
  shape.step.pages_per_sequence_max =
      in.kv_pages > 0 ? std::min(context_pages, in.kv_pages) : context_pages;
  shape.step.multiprocessors = in.device->multiprocessors;
  shape.step.shared_bytes_max = in.device->shared_bytes_max;
  shape.hidden = config.hidden_size;
  shape.vocab = in.weights->vocab_split.of(in.rank).size();
  shape.experts = config.n_routed_experts;
  shape.experts_per_row = config.num_experts_per_tok;
  shape.logit_rows_max = in.logit_rows_max;
  shape.ranks = in.plan->ranks();
  WidthsOfGathers(in, &shape);
  WidthsWithinLayers(in, &shape);
  shape.linear_workspace_bytes = LargestLinearWorkspace(in);
  return shape;
}

RouteArgs RouteShapeOf(const ModelConfig& config) {
  const bool groups = config.topk_method != TopkMethod::kGreedy;
  RouteArgs args;
  args.experts = config.n_routed_experts;
  args.per_token = config.num_experts_per_tok;
  args.groups = groups ? std::max<int64_t>(1, config.n_group) : 1;
  args.groups_kept = groups ? config.topk_group : 1;
  args.sigmoid = config.scoring_func == ScoringFunc::kSigmoid;
  args.group_by_top2 = config.topk_method == TopkMethod::kNoAuxTc;
  args.normalize = config.norm_topk_prob && config.num_experts_per_tok > 1;
  const bool scaled = !(args.normalize && config.scoring_func == ScoringFunc::kSoftmax);
  args.scale = scaled ? static_cast<float>(config.routed_scaling_factor) : 1.0f;
  return args;
}

}  // namespace tandem::gpu_worker::cuda
