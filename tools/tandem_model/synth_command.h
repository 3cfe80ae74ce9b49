// `tandem-model synth`: from flags to SynthOptions.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/model/synth.h"

namespace tandem {

struct SynthFlags {
  std::string config;  // config.json, or a folder that holds one
  std::string preset;  // instead of a config: a name of synth_presets.h
  std::string format;
  std::string container;  // "gguf" or "safetensors"
  std::string out;
  int64_t layers = 0;  // 0: as in the config
  int64_t experts = 0;
  uint64_t seed = 1;
  std::vector<std::string> set;  // "key=value", value JSON or a bare word
  std::string expert_layout = "usual";
  bool pure = false;
  bool fused_kv_b = false;
  bool force = false;
};

// Reads the config, applies the changes and checks all of it. The messages are those of the
// parsers.
absl::StatusOr<SynthOptions> ResolveSynthFlags(const SynthFlags& flags);

}  // namespace tandem
