// The names of tensors: one table from what a tensor does to what Hugging Face files and GGUF files
// call it. Reader and writer share it, so that a role is spelled in one place.
#pragma once

#include <cstdint>
#include <string>

#include "lib/model/tensor_source.h"

namespace tandem {

enum class TensorRole {
  kEmbedding,
  kFinalNorm,
  kLmHead,
  kAttnNorm,
  kFfnNorm,
  kQ,
  kQA,
  kQANorm,
  kQB,
  kKvA,
  kKvANorm,
  kKvB,
  kKB,  // GGUF only
  kVB,  // GGUF only
  kO,
  kDenseGate,
  kDenseUp,
  kDenseDown,
  kRouter,
  kRouterBias,
  kSharedGate,
  kSharedUp,
  kSharedDown,
  kExpertGate,  // one tensor per expert: every published safetensors, very old GGUF
  kExpertUp,
  kExpertDown,
  kStackedGate,  // all experts of a layer: GGUF
  kStackedUp,
  kStackedDown,
  kStackedGateUp,  // gate rows first, then up rows: transformers 5 in memory, some GGUF
  kCount,
};

// The name of `role` in files of `kind`; empty when that container has no such tensor. `layer` and
// `expert` are used by the roles that need them.
std::string TensorNameOf(ContainerKind kind, TensorRole role, int64_t layer = 0,
                         int64_t expert = 0);

// The Hugging Face path of the module that holds the tensor, "model.layers.3.self_attn.q_a_proj":
// its name without ".weight".
std::string ModulePath(TensorRole role, int64_t layer = 0);

// For messages and tables of people: "attn_q_a", "expert_gate".
const char* LabelOf(TensorRole role);

// The layer a tensor belongs to by its name ("model.layers.7." or "blk.7."), or -1.
int64_t LayerOfTensorName(ContainerKind kind, const std::string& name);

// Whether a tensor belongs to the routed experts, of multi-token-prediction layers too; its scales
// count as well.
bool IsRoutedExpertName(ContainerKind kind, const std::string& name);

}  // namespace tandem
