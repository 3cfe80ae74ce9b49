// The GPU worker's command line.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/host/linear_format.h"
#include "lib/model/config.h"
#include "lib/model/recipe_linear.h"
#include "proto/membership.pb.h"

namespace tandem::gpu_worker {

struct WorkerOptions {
  std::string model;
  std::string recipe;  // path; empty: without a recipe
  std::string coordinator;
  std::string listen = "127.0.0.1:0";
  std::string advertise;
  std::string admin_listen = "127.0.0.1:0";
  std::string backend = "host";
  std::string kernels = "auto";  // of the CUDA backend, like the next two
  int device = 0;
  bool cuda_graphs = true;
  int ranks = 1;
  double rank_timeout_seconds = 60;
  std::string attention = "flash";
  std::string linear = "native";
  int marlin_group = 128;
  std::string precision = "bf16";
  std::string routing = "assume";
  std::string expert_transport = "auto";
  std::string half_batches = "auto";
  std::string trace;  // path; empty: no trace
  int64_t trace_steps = 64;
  int64_t kv_tokens = 0;
  int64_t rows_max = 512;
  int threads = 0;
  double expert_patience_seconds = 5;
  double drain_seconds = 20;
};

void AddWorkerOptions(CLI::App& app, WorkerOptions* options);

// Which of the flags that a recipe also sets were given, on the command line, in the environment or
// in the config file. Ask after parsing.
struct GivenFlags {
  bool attention = false;
  bool precision = false;
  bool linear = false;
};
GivenFlags GivenFlagsOf(const CLI::App& app);

// Takes attention and precision from the recipe unless flags say otherwise, which is logged.
void ApplyRecipe(const Recipe& recipe, const GivenFlags& given, WorkerOptions* options);

// The format of every linear layer of the model: the recipe's, or one for all by --linear when that
// was given or there is no recipe. Errors are AssignLinear's.
absl::StatusOr<std::vector<AssignedModule>> LinearLayers(const WorkerOptions& options,
                                                         const std::optional<Recipe>& recipe,
                                                         const GivenFlags& given,
                                                         const ModelConfig& config);

// The backend's word for a recipe's choice.
LinearFormat BackendFormat(const LinearChoice& choice);

// FAILED_PRECONDITION or INVALID_ARGUMENT: one sentence why a worker cannot start with these
// options.
absl::Status CheckWorkerOptions(const WorkerOptions& options);

// Pages for kv_tokens, or for the model's context if that is 0, but then within a quarter of the
// memory that is free (/proc/meminfo) and at least one page. Each rank has a cache of that many.
int64_t KvPages(const WorkerOptions& options, const ModelConfig& config, Precision precision);

// Rows from which on a step goes as two halves, by --half-batches; 0: never.
int64_t HalfRowsMin(const WorkerOptions& options, const ModelConfig& config,
                    const BackendInfo& backend);

// The address others reach this worker at: --advertise (a port 0 or none is replaced by the real
// one), or where it listens. INVALID_ARGUMENT when it listens on all addresses and --advertise is
// missing.
absl::StatusOr<std::string> AdvertisedAddress(const WorkerOptions& options,
                                              const std::string& listening, int port);

}  // namespace tandem::gpu_worker
