#include "tools/tandem_model/synth_command.h"

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "lib/base/status_macros.h"
#include "lib/model/config_json.h"
#include "lib/model/synth_presets.h"
#include "nlohmann/json.hpp"

namespace tandem {
namespace {

absl::StatusOr<nlohmann::json> ReadConfig(std::string& path) {
  if (std::filesystem::is_directory(path))
    path = (std::filesystem::path(path) / "config.json").string();
  std::ifstream in(path, std::ios::binary);
  if (!in)
    return absl::NotFoundError(
        absl::StrCat(path, ": expected a config.json, found no readable file"));
  std::ostringstream text;
  text << in.rdbuf();
  return ParseJsonObject(text.str(), path);
}

// The config that --config or --preset names; `name` becomes what messages call it.
absl::StatusOr<nlohmann::json> ConfigOf(const SynthFlags& flags, std::string& name) {
  if (flags.config.empty() == flags.preset.empty())
    return absl::InvalidArgumentError("expected either --config or --preset");
  name = flags.config;
  if (flags.preset.empty()) return ReadConfig(name);
  name = absl::StrCat("preset ", flags.preset);
  TANDEM_ASSIGN_OR_RETURN(const std::string text, SynthPresetConfig(flags.preset));
  return ParseJsonObject(text, name);
}

// Values are JSON; a bare word that is none ("sigmoid") is taken as a string.
absl::Status ApplySetting(const std::string& setting, nlohmann::json& config) {
  const size_t equals = setting.find('=');
  if (equals == std::string::npos || equals == 0)
    return absl::InvalidArgumentError(absl::StrCat("--set must be key=value, found ", setting));
  const std::string text = setting.substr(equals + 1);
  nlohmann::json value = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  config[setting.substr(0, equals)] = value.is_discarded() ? nlohmann::json(text) : value;
  return absl::OkStatus();
}

absl::StatusOr<ExpertLayout> LayoutNamed(const std::string& name) {
  if (name == "usual") return ExpertLayout::kUsual;
  if (name == "separate") return ExpertLayout::kSeparate;
  if (name == "gate-up") return ExpertLayout::kStackedGateUp;
  return absl::InvalidArgumentError(
      absl::StrCat("--expert-layout must be usual, separate or gate-up, found ", name));
}

}  // namespace

absl::StatusOr<SynthOptions> ResolveSynthFlags(const SynthFlags& flags) {
  SynthOptions options;
  std::string path;
  TANDEM_ASSIGN_OR_RETURN(nlohmann::json json, ConfigOf(flags, path));
  if (flags.layers > 0) json["num_hidden_layers"] = flags.layers;
  if (flags.experts > 0) json["n_routed_experts"] = flags.experts;
  for (const std::string& setting : flags.set) TANDEM_RETURN_IF_ERROR(ApplySetting(setting, json));
  TANDEM_ASSIGN_OR_RETURN(options.config, ParseHfConfig(json.dump(), path));
  if (options.config.name.empty())
    options.config.name = std::filesystem::path(flags.out).stem().string();
  TANDEM_ASSIGN_OR_RETURN(options.format, ParseSynthFormat(flags.format, flags.pure));
  if (flags.container != "gguf" && flags.container != "safetensors")
    return absl::InvalidArgumentError(
        absl::StrCat("--container must be gguf or safetensors, found ", flags.container));
  options.container =
      flags.container == "gguf" ? ContainerKind::kGguf : ContainerKind::kSafetensors;
  TANDEM_ASSIGN_OR_RETURN(options.experts, LayoutNamed(flags.expert_layout));
  options.out = flags.out;
  options.seed = flags.seed;
  options.overwrite = flags.force;
  options.fused_kv_b = flags.fused_kv_b;
  return options;
}

}  // namespace tandem
