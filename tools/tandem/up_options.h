// The options of `tandem up`, and what they mean for the programs it starts.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "absl/status/status.h"

namespace tandem::launcher {

struct UpOptions {
  std::string model;
  std::string recipe;  // path; empty: without a recipe
  int cpu_workers = 1;
  int gpu_threads = 0;  // 0: one per core
  int cpu_threads = 0;  // 0: the cores shared between the CPU workers
  std::string listen = "127.0.0.1:0";
  std::string http_listen = "127.0.0.1:0";  // or "none"
  double wait_ready_seconds = 600;
  bool no_restart = false;
  bool json = false;
  std::string log_dir;
  std::string state_file;
  std::string gpu_worker_program;  // empty: tandem-gpu-worker beside this program
  // Handed on as they are; empty: the program's default.
  std::map<std::string, std::string> gpu_worker;  // by flag: "--backend"
  std::string routing;                            // GPU and CPU workers
  std::string replicas, replace_after_seconds, prefill_chunk, sequences_max,
      context_tokens;                                            // coordinator
  std::string lease_seconds, ready_wait_seconds, drain_seconds;  // coordinator
  std::string cpu_memory_limit;                                  // CPU workers
};

void AddUpOptions(CLI::App& app, UpOptions* options);

// Takes the cluster's settings from the recipe where no flag gives them; where one does and says
// something else, it wins, which is logged. Resolves the recipe's sources, so that a mistake is
// told before anything starts. Errors are those of OpenServedModel. Call after parsing.
absl::Status ApplyRecipe(const CLI::App& app, UpOptions* options);

// Where a program shall listen: for its peers and for /metrics.
struct Addresses {
  std::string listen;
  std::string admin;
  std::string http = {};  // of the coordinator: OpenAI's endpoints, or "none"
};

// The arguments behind the program's name. `coordinator` is the coordinator's address.
std::vector<std::string> CoordinatorArgs(const UpOptions& options, const Addresses& own);
std::vector<std::string> GpuWorkerArgs(const UpOptions& options, const std::string& coordinator,
                                       const Addresses& own);
std::vector<std::string> CpuWorkerArgs(const UpOptions& options, const std::string& coordinator,
                                       const Addresses& own);

}  // namespace tandem::launcher
