// The GPU worker's flags about hot experts, and what they lead to: which experts it computes
// itself, and where it writes what its router chose.
#pragma once

#include <memory>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/experts/local_experts.h"
#include "gpu_worker/experts/routing_counter.h"
#include "lib/model/model_weights.h"
#include "lib/model/recipe_sources.h"

namespace tandem::gpu_worker {

struct HotExpertOptions {
  std::string list;            // path; empty: the recipe's; "none"
  double memory_gib = 0;       // of the experts held, 0: as many as the list names
  std::string routing_counts;  // path; empty: nothing is counted
};
void AddHotExpertOptions(CLI::App& app, HotExpertOptions* options);

// The list is the one given, else the recipe's; "none" on the command line is none at all. Null
// without a list. `load` is how the worker read the model. The experts are computed by what
// `make_backend` makes, else by `threads`. Errors name the file, or are LocalExperts::Load's.
absl::StatusOr<std::unique_ptr<LocalExperts>> LoadHotExperts(
    const HotExpertOptions& options, const ServedModel& served, const LoadOptions& load,
    int threads, LocalExperts::MakeBackend make_backend);

// The counts of a running worker, written to a file now and then.
class RoutingCountsFile {
 public:
  RoutingCountsFile(const HotExpertOptions& options, const ModelWeights& weights);
  // Null when nothing is counted.
  RoutingCounter* counter() { return counter_.get(); }
  // Replaces the file by what was counted so far; logs an error.
  void Write() const;

 private:
  const std::string path_;
  std::unique_ptr<RoutingCounter> counter_;
};

}  // namespace tandem::gpu_worker
