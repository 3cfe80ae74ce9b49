#include "eval_client/table/table_plan.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/program.h"
#include "nlohmann/json.hpp"

namespace tandem::eval {
namespace {

using Json = nlohmann::ordered_json;

bool IsDataset(const std::string& suite) { return suite == "mmlu" || suite == "mmlu_pro"; }

}  // namespace

std::vector<std::string> SuitesOfRow(const std::vector<std::string>& suites,
                                     const PublishedRow& row) {
  const bool any_dataset = std::any_of(suites.begin(), suites.end(), IsDataset);
  std::string first_dataset;
  for (const std::string& suite : suites) {
    if (first_dataset.empty() && IsDataset(suite)) first_dataset = suite;
  }
  std::vector<std::string> chosen;
  for (const std::string& suite : suites) {
    const bool asked =
        IsDataset(suite) ? suite == row.dataset : !any_dataset || row.dataset == first_dataset;
    if (asked) chosen.push_back(suite);
  }
  return chosen;
}

TablePlan MakeTablePlan(std::vector<RowPlan> rows, const TableOptions& options,
                        const std::string& out) {
  TablePlan plan;
  plan.rows = std::move(rows);
  plan.out = out;
  const std::string runs = out + "/runs/";
  for (const RowPlan& row : plan.rows) {
    std::vector<std::string> suites = SuitesOfRow(options.suites, row.published);
    if (suites.empty()) continue;
    plan.runs.push_back({row.name, &row, std::move(suites), options.seed, runs + row.name});
  }
  // The same row under another seed: how far apart two runs are that differ in nothing else.
  if (options.noise_run && !plan.runs.empty()) {
    PlannedRun again = plan.runs.front();
    absl::StrAppend(&again.label, " again");
    absl::StrAppend(&again.folder, "-again");
    again.seed = options.seed + 1;
    plan.runs.insert(plan.runs.begin() + 1, again);
  }
  if (!options.baseline.address.empty()) {
    plan.runs.push_back(
        {options.baseline_name, nullptr, options.suites, options.seed, runs + "baseline"});
  }
  return plan;
}

std::string PlanToJson(const TablePlan& plan, const TableOptions& options) {
  Json json = {{"suites", options.suites},
               {"data", options.data},
               {"limit", options.limit},
               {"samples", options.samples},
               {"shots", options.shots},
               {"variants", options.variants},
               {"seed", options.seed},
               {"max_tokens", options.max_tokens ? Json(*options.max_tokens) : Json()},
               {"temperature", options.temperature ? Json(*options.temperature) : Json()},
               {"noise_run", options.noise_run},
               // Not its address: a server started again may listen elsewhere.
               {"baseline", !options.baseline.address.empty()},
               {"baseline_model", options.baseline.model},
               {"rows", Json::object()}};
  for (const RowPlan& row : plan.rows) {
    json["rows"][row.name] = {{"weights", row.weights_digest}, {"recipe", row.recipe_digest}};
  }
  return json.dump(2) + "\n";
}

absl::Status CheckSamePlan(const std::string& earlier_json, const std::string& now_json) {
  const Json earlier = Json::parse(earlier_json, nullptr, false);
  const Json now = Json::parse(now_json);
  if (!earlier.is_object()) {
    return absl::DataLossError("the plan of the earlier table cannot be read");
  }
  for (const auto& [key, value] : now.items()) {
    const Json before = earlier.value(key, Json());
    if (before == value) continue;
    return absl::FailedPreconditionError(absl::StrCat("expected '", key, "' of the earlier table, ",
                                                      before.dump(), ", found ", value.dump()));
  }
  return absl::OkStatus();
}

}  // namespace tandem::eval
