// Recipe: one YAML file that says how a model is served: where each class of weights comes from,
// which number format and kernel each linear layer gets, which attention kernel runs. A row of an
// accuracy table is then a file instead of an edited source tree. docs/recipes.md describes the
// format; this header holds what is read from it, the parser checks everything that needs no model.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem {

// What a linear layer's weights are converted to when they are loaded.
enum class WeightFormat {
  kBf16,
  kFp8,      // e4m3, 128 x 128 weight scales, 1 x 128 activation scales
  kMarlin8,  // int8, symmetric, one scale per group of inputs
  kMarlin4,  // int4, likewise
  kStored,   // as the file holds them
};
const char* NameOf(WeightFormat format);  // "bf16", "fp8", "marlin8", "marlin4", "stored"
std::optional<WeightFormat> ParseWeightFormat(const std::string& name);

// Inputs that share one scale in a Marlin format unless the recipe says 64 (as KTransformers does).
inline constexpr int64_t kMarlinGroupDefault = 128;

struct LinearChoice {
  WeightFormat format = WeightFormat::kBf16;
  int64_t group = 0;              // Marlin formats: 64 or 128; else 0
  std::string kernel = "native";  // "native" or "onednn" for bf16, else the format's only one
  bool operator==(const LinearChoice&) const = default;
};

// The only kernel of a format, or the one it has by default.
const char* DefaultKernel(WeightFormat format);

struct LinearRule {
  std::string match;  // PCRE2, searched for anywhere in the module's path
  LinearChoice choice;
  int line = 0;
};

// One file or folder: "${model}" at the beginning stands for --model, the rest may hold * ? [..].
struct RecipeSource {
  std::string pattern = "${model}";
  int line = 0;  // 0: not in the file
};

// A row of the table this project began from, as printed there.
struct RecipeTableRow {
  std::string dataset;  // "mmlu" or "mmlu_pro"
  int64_t row = 0;
  std::string model;
  std::string cpu_weight_format, cpu_kernel, gpu_weight_format, gemm_kernel, mla_kernel;
  std::string siliconflow, ktrans_point;  // published scores
};

struct Recipe {
  std::string file;    // as given, for messages
  std::string folder;  // patterns that are relative and do not begin with ${model} start here
  std::string name;
  std::string description;
  RecipeSource dense, experts;
  LinearChoice linear_default;
  std::vector<LinearRule> linear_rules;  // the first that matches wins
  std::string attention = "flash";       // "flash" or "reference"
  std::string precision = "bf16";        // "bf16" or "f32"
  // What `tandem up` passes on, by the flag's name with underscores: cpu_workers, kv_tokens, ...
  std::vector<std::pair<std::string, int64_t>> cluster;
  std::optional<RecipeTableRow> table;
  // File that names the experts a GPU worker holds itself, relative to `folder`; empty: none. Like
  // `cluster` it is about where things are computed, not about what comes out.
  std::string hot_experts;
  // 64 hex digits over what changes answers: sources as written, rules, attention, precision. Equal
  // recipes under other names or with other cluster settings have the same.
  std::string digest;
};

// The path of `hot_experts`; empty without one.
std::string HotExpertsPath(const Recipe& recipe);

// A recipe is a page of text; the bound keeps a wrong path from being parsed.
inline constexpr int64_t kRecipeBytesMax = 64 << 10;

// INVALID_ARGUMENT: one sentence beginning "<file> line <n>: " for YAML that does not parse, an
// unknown or doubled key, a value of the wrong kind, a regular expression that does not compile.
absl::StatusOr<Recipe> ParseRecipe(const std::string& yaml, const std::string& file);

// The same from a file. NOT_FOUND when it cannot be read.
absl::StatusOr<Recipe> LoadRecipe(const std::string& path);

}  // namespace tandem
