// RowPlan: one row of the result table before it is measured: the recipe, what the published table
// prints for it, and what every layer will get. Read from `tandem recipe explain`, because the
// judge itself knows nothing of models.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::eval {

// The published row, cell by cell as printed there.
struct PublishedRow {
  std::string dataset;  // "mmlu" or "mmlu_pro"
  int row = 0;
  std::string model;  // DeepSeek-V3 or -R1
  std::string cpu_weight_format, cpu_kernel, gpu_weight_format, gemm_kernel, mla_kernel;
  std::string baseline_score, score;  // "81.6", or "tbd"
};

struct RowPlan {
  std::string recipe;  // path of the file
  std::string model;   // what stands for ${model} in it
  std::string name;
  PublishedRow published;
  std::string linear_formats;  // "fp8 (28), bf16 (1)"
  std::string attention;
  std::string precision;
  std::string expert_types;  // as stored: "q4_K, q6_K"
  std::string weights_digest, recipe_digest;
};

// From the JSON of `tandem recipe explain`. INVALID_ARGUMENT names a missing key.
absl::StatusOr<RowPlan> RowPlanFromJson(const std::string& json);

// What stands for ${model} in the recipes: `model`, or another one for the rows named.
struct RowModels {
  std::string model;
  std::map<std::string, std::string> of_row;
};

// Runs `tandem recipe explain` for each recipe (a file, or a folder: its *.yaml files that have a
// `table` section), and sorts by dataset and row. A recipe's file is named as the recipe. `tandem`:
// path of the program. NOT_FOUND when there is no such recipe, or no row of a name in `models`;
// FAILED_PRECONDITION with the program's own sentence when one does not fit its model,
// INVALID_ARGUMENT when two have the same name.
absl::StatusOr<std::vector<RowPlan>> PlanRows(const std::string& tandem,
                                              const std::vector<std::string>& recipes,
                                              const RowModels& models);

}  // namespace tandem::eval
