#include "gpu_worker/server/hot_experts.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"
#include "lib/base/text_file.h"

namespace tandem::gpu_worker {
namespace {

constexpr double kGib = 1 << 30;
constexpr char kNone[] = "none";

std::unique_ptr<RoutingCounter> CounterOf(const ModelWeights& weights) {
  std::vector<uint32_t> layers;
  for (int64_t layer = 0; layer < weights.config.num_hidden_layers; ++layer) {
    if (weights.config.IsMoeLayer(layer)) layers.push_back(static_cast<uint32_t>(layer));
  }
  return std::make_unique<RoutingCounter>(weights.digest, layers, weights.config.n_routed_experts);
}

// The path of the list; empty: none.
std::string ListOf(const HotExpertOptions& options, const ServedModel& served) {
  if (options.list == kNone) return "";
  if (!options.list.empty() || !served.recipe.has_value()) return options.list;
  return HotExpertsPath(*served.recipe);
}

}  // namespace

void AddHotExpertOptions(CLI::App& app, HotExpertOptions* o) {
  app.add_option(
      "--hot-experts", o->list,
      "File of experts this worker holds and computes itself, on its GPU if it has one, "
      "beside the expert workers that hold them; `tandem hot-experts` writes it (default: "
      "the recipe's hot_experts; none: not even those)");
  app.add_option("--hot-experts-gib", o->memory_gib,
                 "Memory of these experts at most; a longer list is refused (0: no limit)")
      ->capture_default_str()
      ->check(CLI::NonNegativeNumber);
  app.add_option("--routing-counts", o->routing_counts,
                 "File for how often each expert was chosen, written every minute and at the end");
}

absl::StatusOr<std::unique_ptr<LocalExperts>> LoadHotExperts(
    const HotExpertOptions& options, const ServedModel& served, const LoadOptions& load,
    int threads, LocalExperts::MakeBackend make_backend) {
  const std::string list = ListOf(options, served);
  if (list.empty()) return nullptr;
  const std::string text = base::ReadTextOrEmpty(list);
  if (text.empty()) {
    return absl::NotFoundError(
        absl::StrCat("expected a list of hot experts in ", list, ", found nothing"));
  }
  TANDEM_ASSIGN_OR_RETURN(const HotExperts hot, ParseHotExperts(text, list));
  LocalExperts::Options local;
  local.store.model_path = served.sources.experts;
  local.store.dense_path = served.sources.dense;
  local.store.load = load;
  local.store.memory_bytes_max = static_cast<int64_t>(options.memory_gib * kGib);
  local.threads = threads;
  local.make_backend = std::move(make_backend);
  const bool on_device = local.make_backend != nullptr;
  TANDEM_ASSIGN_OR_RETURN(auto experts, LocalExperts::Load(local, hot));
  base::LogInfo("hot_experts_loaded", {{"list", list},
                                       {"experts", experts->experts()},
                                       {"bytes", experts->weight_bytes()},
                                       {"computed_by", on_device ? "device" : "processor"}});
  return experts;
}

RoutingCountsFile::RoutingCountsFile(const HotExpertOptions& options, const ModelWeights& weights)
    : path_(options.routing_counts), counter_(path_.empty() ? nullptr : CounterOf(weights)) {}

void RoutingCountsFile::Write() const {
  if (counter_ == nullptr) return;
  const absl::Status written = base::ReplaceFile(path_, RoutingCountsJson(counter_->Counts()));
  if (!written.ok()) base::LogError("routing_counts_not_written", {{"why", written.ToString()}});
}

}  // namespace tandem::gpu_worker
