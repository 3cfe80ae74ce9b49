// Which linear layer gets which format: the modules of a network by their Hugging Face paths, and a
// recipe's rules applied to them. It needs a config and no weights, so that a mistake in a recipe
// is told before anything is loaded.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/model/config.h"
#include "lib/model/model_weights_names.h"
#include "lib/model/recipe.h"

namespace tandem {

// Two modules have one format whatever a recipe says: attention takes the up-projection kv_b_proj
// apart and needs its plain matrix, and the router decides in f32.
enum class ModuleKind { kFree, kAlwaysBf16, kAlwaysF32 };

struct LinearModule {
  std::string path;  // "model.layers.3.self_attn.q_a_proj"
  TensorRole role;
  int64_t layer = -1;  // -1: lm_head
  int64_t outputs = 0;
  int64_t inputs = 0;
  ModuleKind kind = ModuleKind::kFree;
};

// Every linear layer of the GPU worker, in the order of the network, lm_head last. Routed experts
// are not among them: CPU workers compute them as stored.
std::vector<LinearModule> LinearModules(const ModelConfig& config);

struct AssignedModule {
  LinearModule module;
  LinearChoice choice;  // of a free module
  int rule_line = 0;    // of the rule that decided; 0: the default, or not free
};

// One entry per module of LinearModules. A rule that also matches modules that are not free leaves
// those alone. INVALID_ARGUMENT, one sentence with the rule's line: a rule that matches no module,
// that matches none that an earlier rule has left, or that matches only modules with another fixed
// format.
absl::StatusOr<std::vector<AssignedModule>> AssignLinear(const Recipe& recipe,
                                                         const ModelConfig& config);

// "fp8 (25), bf16 (5)": formats and how many modules have them, the most frequent first; modules
// that are not free are left out.
std::string FormatsText(const std::vector<AssignedModule>& modules);

}  // namespace tandem
