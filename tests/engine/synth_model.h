// Models with random weights for tests that want other shapes or storage than the golden ones.
#pragma once

#include <string>

#include "lib/model/config.h"
#include "lib/model/model_weights.h"

namespace tandem::gpu_worker {

// The smaller sizes of a family: tests/model/configs/<family>.json.
ModelConfig SynthConfig(const std::string& family);

// `format`: how weights are stored, "fp8" and "bf16" in safetensors, a GGUF format otherwise.
ModelWeights MakeSynthModel(const ModelConfig& config, const std::string& format);

}  // namespace tandem::gpu_worker
