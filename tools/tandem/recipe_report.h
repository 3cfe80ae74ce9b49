// RecipeReport: what a recipe means for one model, gathered from its files: every linear layer with
// its format, the sources with their types, what each program needs of memory. `tandem recipe
// explain` prints it, for people or as JSON (docs/recipes.md describes the fields).
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "lib/model/model_weights.h"
#include "lib/model/recipe.h"
#include "lib/model/recipe_linear.h"

namespace tandem::launcher {

// Weights of one type.
struct TypeCount {
  int64_t matrices = 0;
  int64_t bytes = 0;
};

struct SourceReport {
  std::string pattern;
  std::string path;
  std::string container;  // "gguf" or "safetensors"
  std::vector<std::string> files;
  std::map<std::string, TypeCount> types;  // of the matrices taken from this source
  int64_t bytes = 0;                       // their sum
};

struct ModuleReport {
  AssignedModule assigned;
  std::string stored;  // type in the file, "q4_K"
  int64_t bytes = 0;   // in the GPU worker's memory, about
};

struct RecipeReport {
  Recipe recipe;
  std::string model;   // --model
  ModelConfig config;  // the dense source's
  SourceReport dense, experts;
  std::vector<ModuleReport> modules;
  std::string linear_formats;  // FormatsText
  int64_t gpu_worker_bytes = 0;
  int64_t kv_bytes_per_token = 0;
  int64_t experts_bytes = 0;  // as stored, all of them, each once
  int64_t expert_bytes_max = 0;
  std::string digest;  // of the weights
};

// Opens the sources and applies the rules. Errors are those of ResolveSources, LoadModel and
// AssignLinear.
absl::StatusOr<RecipeReport> ReportRecipe(const Recipe& recipe, const std::string& model,
                                          const LoadOptions& options);

// `all`: every module on a line of its own, instead of equal layers as one range.
std::string ReportText(const RecipeReport& report, bool all);
std::string ReportJson(const RecipeReport& report);

}  // namespace tandem::launcher
