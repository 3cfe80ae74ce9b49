#include "lib/model/recipe_sources.h"

#include <fnmatch.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"
#include "lib/model/gguf_reader.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;

constexpr char kModelPlaceholder[] = "${model}";
// Names shown where a pattern matches none or several.
constexpr size_t kNamesShownMax = 6;

// What lies in `folder`, a split GGUF by its first part only. Nothing where it cannot be listed.
std::vector<std::string> NamesIn(const fs::path& folder) {
  std::set<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    SplitName split;
    names.insert(SplitName::Parse(name, &split) ? split.FileName(1) : name);
  }
  return {names.begin(), names.end()};
}

std::string Shown(const std::vector<std::string>& names) {
  const size_t shown = std::min(names.size(), kNamesShownMax);
  std::string text = absl::StrJoin(names.begin(), names.begin() + shown, ", ");
  if (shown < names.size()) absl::StrAppend(&text, " and ", names.size() - shown, " more");
  return text;
}

// The paths that one more component makes of `folder`.
std::vector<std::string> Step(const std::string& folder, const std::string& component) {
  const fs::path as_written = fs::path(folder) / component;
  std::error_code ignored;
  if (fs::exists(as_written, ignored)) return {as_written.string()};
  std::vector<std::string> found;
  for (const std::string& name : NamesIn(folder.empty() ? "." : folder)) {
    if (fnmatch(component.c_str(), name.c_str(), FNM_CASEFOLD | FNM_PERIOD) == 0)
      found.push_back((fs::path(folder) / name).string());
  }
  return found;
}

// Where a pattern starts, and the components behind that.
struct SplitPattern {
  std::string base;
  std::vector<std::string> components;
};

SplitPattern Split(const Recipe& recipe, const std::string& pattern, const std::string& model) {
  std::string rest = pattern;
  SplitPattern out;
  if (absl::StartsWith(pattern, kModelPlaceholder)) {
    out.base = model;
    rest = pattern.substr(sizeof(kModelPlaceholder) - 1);
  } else {
    out.base = absl::StartsWith(pattern, "/") ? "/" : recipe.folder;
  }
  out.components = absl::StrSplit(rest, '/', absl::SkipEmpty());
  return out;
}

}  // namespace

absl::StatusOr<std::string> ResolveSource(const Recipe& recipe, const RecipeSource& source,
                                          const std::string& key, const std::string& model) {
  const SplitPattern split = Split(recipe, source.pattern, model);
  std::vector<std::string> found = {split.base};
  std::vector<std::string> looked_in = {split.base};
  for (const std::string& component : split.components) {
    std::vector<std::string> next;
    for (const std::string& folder : found) {
      for (std::string& path : Step(folder, component)) next.push_back(std::move(path));
    }
    looked_in = std::move(found);
    found = std::move(next);
  }
  std::error_code ignored;
  if (found.size() == 1 && fs::exists(found.front(), ignored)) return found.front();
  std::string wanted = split.base;
  for (const std::string& component : split.components) {
    wanted = (fs::path(wanted) / component).string();
  }
  const std::string place =
      source.line > 0 ? absl::StrCat(recipe.file, " line ", source.line) : recipe.file;
  const std::string expected =
      absl::StrCat(place, ": sources.", key, ": expected exactly one file or folder matching ",
                   wanted, ", found ");
  if (found.size() > 1) {
    return absl::InvalidArgumentError(absl::StrCat(expected, found.size(), ": ", Shown(found)));
  }
  const std::vector<std::string> there =
      looked_in.size() == 1 ? NamesIn(looked_in.front()) : std::vector<std::string>();
  return absl::NotFoundError(absl::StrCat(
      expected, "none", there.empty() ? "" : absl::StrCat(" (there is ", Shown(there), ")")));
}

absl::StatusOr<ModelSources> ResolveSources(const Recipe& recipe, const std::string& model) {
  ModelSources sources;
  TANDEM_ASSIGN_OR_RETURN(sources.dense, ResolveSource(recipe, recipe.dense, "dense", model));
  TANDEM_ASSIGN_OR_RETURN(sources.experts, ResolveSource(recipe, recipe.experts, "experts", model));
  return sources;
}

absl::StatusOr<ServedModel> OpenServedModel(const std::string& recipe_path,
                                            const std::string& model) {
  ServedModel served;
  served.sources = {model, model};
  if (recipe_path.empty()) return served;
  TANDEM_ASSIGN_OR_RETURN(served.recipe, LoadRecipe(recipe_path));
  TANDEM_ASSIGN_OR_RETURN(served.sources, ResolveSources(*served.recipe, model));
  base::LogInfo("recipe", {{"name", served.recipe->name},
                           {"digest", served.recipe->digest},
                           {"dense", served.sources.dense},
                           {"experts", served.sources.experts}});
  return served;
}

}  // namespace tandem
