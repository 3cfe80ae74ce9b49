#include "tools/tandem/hot_experts_command.h"

#include <iostream>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"
#include "lib/base/text_file.h"
#include "lib/kernels/packed.h"
#include "lib/kernels/weights.h"
#include "lib/model/hot_experts.h"
#include "lib/model/recipe_sources.h"

namespace tandem::launcher {
namespace {

constexpr char kName[] = "tandem hot-experts";
constexpr char kExamples[] =
    "  tandem hot-experts counts.json --model /models/V3 --gib 64 --output hot.json";
constexpr double kGib = 1 << 30;

struct HotOptions {
  std::string counts, model, recipe, output;
  double gib = 0;
};

int64_t PackedBytes(const Matrix& matrix) {
  return kernels::LayoutOf(matrix.view.dtype, matrix.rows(), matrix.cols(), matrix.fp8_block_cols)
      .bytes();
}

// Whether the model's experts can be packed at all, and are the ones counted.
absl::Status CheckFits(const RoutingCounts& counts, const ModelWeights& weights,
                       const std::string& name) {
  for (const auto& [layer, rows] : counts.rows) {
    if (layer >= weights.layers.size() || weights.layers[layer].experts.size() != rows.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat(name, ": layer ", layer, " does not fit the model"));
    }
    for (const FfnWeights& expert : weights.layers[layer].experts) {
      for (const Matrix* matrix : {&expert.gate, &expert.up, &expert.down}) {
        TANDEM_RETURN_IF_ERROR(
            kernels::CheckWeightType(matrix->view.dtype, matrix->cols(), matrix->fp8_block_cols));
      }
    }
  }
  return absl::OkStatus();
}

// What the list covers, in one line.
std::string Summary(const RoutingCounts& counts, const HotExperts& hot) {
  uint64_t all = 0, covered = 0;
  for (const auto& [layer, rows] : counts.rows) {
    for (uint32_t e = 0; e < rows.size(); ++e) {
      all += rows[e];
      if (hot.experts.contains({layer, e})) covered += rows[e];
    }
  }
  const double share = all == 0 ? 0 : static_cast<double>(covered) / static_cast<double>(all);
  return absl::StrFormat("%d experts, asked for by %.1f%% of %d rows", hot.experts.size(),
                         100 * share, all);
}

absl::StatusOr<std::string> Pick(const HotOptions& options) {
  const std::string text = base::ReadTextOrEmpty(options.counts);
  TANDEM_ASSIGN_OR_RETURN(const RoutingCounts counts, ParseRoutingCounts(text, options.counts));
  TANDEM_ASSIGN_OR_RETURN(const ServedModel served, OpenServedModel(options.recipe, options.model));
  TANDEM_ASSIGN_OR_RETURN(const ModelWeights weights, LoadModel(served.sources));
  if (weights.digest != counts.model_digest) {
    return absl::FailedPreconditionError(absl::StrCat(
        options.counts, ": expected digest ", weights.digest, ", found ", counts.model_digest));
  }
  TANDEM_RETURN_IF_ERROR(CheckFits(counts, weights, options.counts));
  const HotExperts hot = PickHotExperts(
      counts, static_cast<int64_t>(options.gib * kGib), [&](uint32_t layer, uint32_t expert) {
        const FfnWeights& ffn = weights.layers[layer].experts[expert];
        return PackedBytes(ffn.gate) + PackedBytes(ffn.up) + PackedBytes(ffn.down);
      });
  TANDEM_RETURN_IF_ERROR(base::ReplaceFile(options.output, HotExpertsJson(hot)));
  return Summary(counts, hot);
}

}  // namespace

int RunHotExperts(int argc, char** argv) {
  CLI::App app("Lists the experts that traffic asks for most, as many as fit in memory.", kName);
  HotOptions options;
  app.add_option("COUNTS", options.counts, "File a GPU worker wrote with --routing-counts")
      ->required();
  app.add_option("--model", options.model, "The model it served")->required();
  app.add_option("--recipe", options.recipe, "The recipe it served it by");
  app.add_option("--gib", options.gib, "Memory for these experts")
      ->required()
      ->check(CLI::PositiveNumber);
  app.add_option("--output", options.output, "The list, for --hot-experts of a GPU worker")
      ->required();
  base::AddStandardOptions(app, kExamples);
  if (const int code = base::ParseOrExitCode(app, argc, argv); code >= 0) return code;
  const absl::StatusOr<std::string> summary = Pick(options);
  if (!summary.ok()) return base::CannotStart(kName, summary.status());
  std::cout << *summary << "\n";
  return 0;
}

}  // namespace tandem::launcher
