// ModelSummary: the figures of a model that people ask for, counted from its tensors.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "lib/model/model_weights.h"

namespace tandem {

struct RoleFormat {
  int64_t tensors = 0;  // matrices, experts counted singly
  int64_t parameters = 0;
  int64_t bytes = 0;
};

struct ModelSummary {
  int64_t parameters_total = 0;
  // Read for one token: everything but the experts not chosen and the embedding rows not looked up.
  int64_t parameters_active = 0;
  int64_t weight_bytes = 0;  // of the tensors in use, scales included
  int64_t expert_bytes_min =
      0;  // one expert as stored (gate, up, down); layers may differ in format
  int64_t expert_bytes_max = 0;
  int64_t kv_bytes_per_token = 0;  // all layers, bf16
  // class of weights ("routed experts", "attention", ...) -> format -> how much
  std::map<std::string, std::map<std::string, RoleFormat>> formats;
};

ModelSummary SummarizeModel(const ModelWeights& model);

// "tokenizer.json", "tiktoken.model", "GGUF metadata (gpt2, deepseek-v3)" or empty when there is
// none.
std::string TokenizerOf(const ModelWeights& model);

}  // namespace tandem
