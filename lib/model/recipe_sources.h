// From a recipe's patterns to paths: which file or folder on this machine the dense layers and the
// experts are read from. Every program of a cluster resolves the same recipe by itself; the digest
// of the weights tells whether they found the same.
#pragma once

#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "lib/model/model_weights.h"
#include "lib/model/recipe.h"

namespace tandem {

// The one file or folder that `source` names. Wildcards and case: fnmatch(3) per path component,
// ignoring case; a component that exists as written is taken as it is. The parts of a split GGUF
// count as one match, its first part. INVALID_ARGUMENT or NOT_FOUND, one sentence naming the
// recipe's line, what was expected and what was found, unless exactly one matches. `key` is "dense"
// or "experts", `model` the value of --model.
absl::StatusOr<std::string> ResolveSource(const Recipe& recipe, const RecipeSource& source,
                                          const std::string& key, const std::string& model);

// Both sources.
absl::StatusOr<ModelSources> ResolveSources(const Recipe& recipe, const std::string& model);

// What a program was told to serve by --recipe and --model.
struct ServedModel {
  ModelSources sources;
  std::optional<Recipe> recipe;  // none without --recipe
  std::string recipe_digest() const { return recipe.has_value() ? recipe->digest : ""; }
};

// Reads the recipe and resolves its sources; an empty `recipe_path` makes `model` both sources.
// Logs what was found. Errors are those of LoadRecipe and ResolveSources.
absl::StatusOr<ServedModel> OpenServedModel(const std::string& recipe_path,
                                            const std::string& model);

}  // namespace tandem
