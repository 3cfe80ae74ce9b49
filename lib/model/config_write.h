// The way back: a ModelConfig as config.json text and as GGUF metadata. What is written reads back
// to an equal config (name apart), which is how the two parsers are tested against each other.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "lib/model/config.h"
#include "lib/model/gguf_writer.h"

namespace tandem {

// config.json with `torch_dtype` as given ("bfloat16").
std::string HfConfigJson(const ModelConfig& config, const std::string& torch_dtype);

// The keys of arch deepseek2 and general.*, not the tokenizer's. `fused_kv_b` writes the head sizes
// as files before the split of kv_b did. UNIMPLEMENTED for what the container cannot say:
// split-halves rope, moe_layer_freq above 1, YaRN with two different mscales.
absl::StatusOr<GgufKeyValues> GgufConfigKeys(const ModelConfig& config, bool fused_kv_b);

}  // namespace tandem
