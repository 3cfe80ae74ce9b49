// Architectures to synthesize by name, without a config file at hand: what benchmarks and tests at
// full tensor sizes are run on.
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem {

// "v2-lite": DeepSeek-V2-Lite as published. "v3-layer": one mixture-of-experts layer of DeepSeek-V3
// with all of its 256 experts, under a small vocabulary, so that the experts are most of the file.
std::vector<std::string> SynthPresetNames();

// The preset's config.json. INVALID_ARGUMENT lists the presets there are.
absl::StatusOr<std::string> SynthPresetConfig(const std::string& name);

}  // namespace tandem
