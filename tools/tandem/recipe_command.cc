#include "tools/tandem/recipe_command.h"

#include <cstring>
#include <iostream>
#include <string>

#include "absl/strings/str_cat.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"
#include "tools/tandem/recipe_report.h"

namespace tandem::launcher {
namespace {

constexpr char kName[] = "tandem recipe explain";
constexpr char kExamples[] =
    "  tandem recipe explain deploy/recipes/mmlu-4.yaml --model models/quiz\n"
    "  tandem recipe explain my.yaml --model /models/DeepSeek-V3 --json";

struct ExplainOptions {
  std::string recipe;
  std::string model;
  std::string routing = "assume";
  bool json = false;
  bool all = false;
};

void AddExplainOptions(CLI::App& app, ExplainOptions* o) {
  app.add_option("RECIPE", o->recipe, "Recipe file")->required();
  app.add_option("--model", o->model, "What ${model} in the recipe stands for")->required();
  app.add_option("--routing", o->routing, "How old GGUF files are read, assume or as-file")
      ->capture_default_str()
      ->check(CLI::IsMember({"assume", "as-file"}));
  const std::string json_help = "Print one JSON object",
                    all_help = "A line for every layer, not one for equal layers";
  app.add_flag("--json", o->json, json_help);
  app.add_flag("--all", o->all, all_help);
}

absl::StatusOr<std::string> Explain(const ExplainOptions& options) {
  LoadOptions load;
  load.routing = options.routing == "as-file" ? OldFileRouting::kAsFile : OldFileRouting::kAssume;
  TANDEM_ASSIGN_OR_RETURN(const Recipe recipe, LoadRecipe(options.recipe));
  TANDEM_ASSIGN_OR_RETURN(const RecipeReport report, ReportRecipe(recipe, options.model, load));
  return options.json ? ReportJson(report) : ReportText(report, options.all);
}

}  // namespace

int RunRecipe(int argc, char** argv) {
  const std::string what = argc > 1 ? argv[1] : "";
  if (what != "explain") {
    return base::CannotStart(
        "tandem recipe", absl::InvalidArgumentError(
                             absl::StrCat("expected a command (explain), found ",
                                          what.empty() ? "none" : absl::StrCat("'", what, "'"))));
  }
  CLI::App app("Prints what a recipe gives every linear layer of a model.", kName);
  ExplainOptions options;
  AddExplainOptions(app, &options);
  base::AddStandardOptions(app, kExamples);
  if (const int code = base::ParseOrExitCode(app, argc - 1, argv + 1); code >= 0) return code;
  const absl::StatusOr<std::string> text = Explain(options);
  if (!text.ok()) return base::CannotStart(kName, text.status());
  std::cout << *text << std::flush;
  return 0;
}

}  // namespace tandem::launcher
