#include "eval_client/table/row_plan.h"

#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <set>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "lib/base/child_process.h"
#include "lib/base/status_macros.h"
#include "lib/base/text_file.h"
#include "nlohmann/json.hpp"

namespace tandem::eval {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

// Reading headers and sampling tensors of a model of a terabyte on a slow disk.
constexpr absl::Duration kExplainMax = absl::Minutes(10);

PublishedRow PublishedFromJson(const Json& table) {
  PublishedRow row;
  table.at("dataset").get_to(row.dataset);
  table.at("row").get_to(row.row);
  table.at("model").get_to(row.model);
  table.at("cpu_weight_format").get_to(row.cpu_weight_format);
  table.at("cpu_kernel").get_to(row.cpu_kernel);
  table.at("gpu_weight_format").get_to(row.gpu_weight_format);
  table.at("gemm_kernel").get_to(row.gemm_kernel);
  table.at("mla_kernel").get_to(row.mla_kernel);
  table.at("siliconflow").get_to(row.baseline_score);
  table.at("ktrans_point").get_to(row.score);
  return row;
}

// A file in the temporary folder that goes when this does.
class TemporaryFile {
 public:
  TemporaryFile() {
    std::string name = (fs::temp_directory_path() / "tandem-explain-XXXXXX").string();
    const int fd = mkstemp(name.data());
    if (fd >= 0) close(fd);
    path_ = name;
  }
  ~TemporaryFile() {
    std::error_code ignored;
    fs::remove(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// stdout of a run of `argv`; what it says on stderr is the message when it fails.
absl::StatusOr<std::string> OutputOf(const std::vector<std::string>& argv) {
  const TemporaryFile output, log;
  base::ChildSpec spec;
  spec.name = argv[0];
  spec.argv = argv;
  spec.output_path = output.path();
  spec.log_path = log.path();
  TANDEM_ASSIGN_OR_RETURN(base::ChildProcess child, base::ChildProcess::Start(spec));
  const absl::Time end = absl::Now() + kExplainMax;
  while (child.running() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(5));
  const bool ended = !child.running();
  base::StopAll({&child}, 1);
  if (!ended) return absl::DeadlineExceededError(absl::StrJoin(argv, " ") + " did not end");
  if (*child.Poll() == 0) return base::ReadTextOrEmpty(output.path());
  const std::string said = base::ReadTextOrEmpty(log.path());
  return absl::FailedPreconditionError(std::string(absl::StripSuffix(said, "\n")));
}

bool HasTableSection(const fs::path& recipe) {
  std::ifstream file(recipe);
  for (std::string line; std::getline(file, line);) {
    if (line.rfind("table:", 0) == 0) return true;
  }
  return false;
}

absl::StatusOr<std::vector<std::string>> RecipeFiles(const std::vector<std::string>& recipes) {
  std::set<std::string> files;
  for (const std::string& recipe : recipes) {
    std::error_code error;
    if (!fs::is_directory(recipe, error)) {
      if (!fs::exists(recipe, error)) {
        return absl::NotFoundError(
            absl::StrCat("expected a recipe or a folder of them, found no ", recipe));
      }
      files.insert(recipe);
      continue;
    }
    for (const auto& entry : fs::directory_iterator(recipe, error)) {
      if (entry.path().extension() == ".yaml" && HasTableSection(entry.path())) {
        files.insert(entry.path().string());
      }
    }
  }
  if (files.empty()) {
    return absl::NotFoundError(absl::StrCat("expected recipes with a table section in ",
                                            absl::StrJoin(recipes, ", "), ", found none"));
  }
  return std::vector<std::string>(files.begin(), files.end());
}

absl::Status CheckNamesDiffer(const std::vector<RowPlan>& rows) {
  std::set<std::string> names;
  for (const RowPlan& row : rows) {
    if (names.insert(row.name).second) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("expected recipes of different names, found '", row.name, "' twice"));
  }
  return absl::OkStatus();
}

RowPlan PlanFromJson(const Json& json) {
  RowPlan plan;
  json.at("file").get_to(plan.recipe);
  json.at("model").get_to(plan.model);
  json.at("name").get_to(plan.name);
  json.at("linear_formats").get_to(plan.linear_formats);
  json.at("attention").get_to(plan.attention);
  json.at("precision").get_to(plan.precision);
  json.at("digest").get_to(plan.weights_digest);
  json.at("recipe_digest").get_to(plan.recipe_digest);
  std::vector<std::string> types;
  for (const auto& [type, unused] : json.at("sources").at("experts").at("types").items()) {
    types.push_back(type);
  }
  plan.expert_types = absl::StrJoin(types, ", ");
  plan.published = PublishedFromJson(json.at("table"));
  return plan;
}

}  // namespace

absl::StatusOr<RowPlan> RowPlanFromJson(const std::string& json) {
  try {
    return PlanFromJson(Json::parse(json));
  } catch (const Json::exception& error) {
    return absl::InvalidArgumentError(absl::StrCat(
        "`tandem recipe explain --json` printed something else than expected: ", error.what()));
  }
}

absl::StatusOr<std::vector<RowPlan>> PlanRows(const std::string& tandem,
                                              const std::vector<std::string>& recipes,
                                              const RowModels& models) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> files, RecipeFiles(recipes));
  std::vector<RowPlan> rows;
  for (const std::string& file : files) {
    const auto own = models.of_row.find(fs::path(file).stem().string());
    const std::string& model = own == models.of_row.end() ? models.model : own->second;
    TANDEM_ASSIGN_OR_RETURN(const std::string json, OutputOf({tandem, "recipe", "explain", file,
                                                              "--model", model, "--json"}));
    TANDEM_ASSIGN_OR_RETURN(RowPlan row, RowPlanFromJson(json));
    rows.push_back(std::move(row));
  }
  std::sort(rows.begin(), rows.end(), [](const RowPlan& a, const RowPlan& b) {
    return std::tie(a.published.dataset, a.published.row, a.name) <
           std::tie(b.published.dataset, b.published.row, b.name);
  });
  TANDEM_RETURN_IF_ERROR(CheckNamesDiffer(rows));
  for (const auto& own : models.of_row) {
    const auto used = [&own](const RowPlan& row) {
      return row.name == own.first && row.model == own.second;
    };
    if (std::any_of(rows.begin(), rows.end(), used)) continue;
    return absl::NotFoundError(absl::StrCat("expected a row '", own.first, "' to use ", own.second,
                                            " for, found none of that name"));
  }
  return rows;
}

}  // namespace tandem::eval
