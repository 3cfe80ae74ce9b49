#include "tests/engine/synth_model.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "lib/base/check.h"
#include "lib/model/synth.h"
#include "tests/engine/tolerance.h"

namespace tandem::gpu_worker {

namespace fs = std::filesystem;

ModelConfig SynthConfig(const std::string& family) {
  const std::string path = SourcePath(absl::StrCat("tests/model/configs/", family, ".json"));
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return ParseHfConfig(text.str(), path).value();
}

ModelWeights MakeSynthModel(const ModelConfig& config, const std::string& format) {
  const fs::path folder = fs::path(testing::TempDir()) / absl::StrCat("synth_", getpid());
  fs::create_directories(folder);
  SynthOptions options;
  options.config = config;
  options.format = ParseSynthFormat(format == "fp8" ? "f8_e4m3" : format, false).value();
  const bool gguf = format != "fp8" && format != "bf16";
  options.container = gguf ? ContainerKind::kGguf : ContainerKind::kSafetensors;
  options.out = (folder / (gguf ? "model.gguf" : "model")).string();
  const auto made = SynthesizeModel(options, [](int64_t, int64_t) { return true; });
  if (!made.ok()) base::CheckFailed(__FILE__, __LINE__, made.status().ToString());
  ModelWeights weights = LoadModel(options.out).value();
  fs::remove_all(folder);  // what is mapped stays
  return weights;
}

}  // namespace tandem::gpu_worker
