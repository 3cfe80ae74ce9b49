#include "tools/tandem/up_options.h"

#include <algorithm>
#include <map>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"
#include "lib/model/recipe_sources.h"

namespace tandem::launcher {
namespace {

void AddText(CLI::App& app, const char* flag, std::string* value, const char* help) {
  app.add_option(flag, *value, help);
}

void Pass(const std::string& flag, const std::string& value, std::vector<std::string>* args) {
  if (value.empty()) return;
  // One word, so that a negative number is not taken for a flag.
  args->push_back(absl::StrCat(flag, "=", value));
}

// Flags that mean here what they mean to the GPU worker, which checks them.
struct GpuWorkerFlag {
  const char* name;
  const char* help;
};
constexpr GpuWorkerFlag kGpuWorkerFlags[] = {
    {"--backend", "host or cuda"},
    {"--kernels", "of --backend cuda: auto, portable, hopper or reference"},
    {"--device", "first CUDA device"},
    {"--cuda-graphs", "true or false"},
    {"--ranks", "GPUs, or groups of threads on the host, that share the work"},
    {"--rank-timeout-seconds", "how long a rank waits for another"},
    {"--precision", "bf16 or f32"},
    {"--attention", "flash or reference"},
    {"--linear", "native, onednn, stored, fp8, marlin8 or marlin4"},
    {"--marlin-group", "128 or 64"},
    {"--kv-tokens", "tokens the KV cache holds"},
    {"--rows-max", "rows of one step"},
    {"--half-batches", "auto, off or rows from which on a step goes as two halves"},
    {"--expert-transport", "auto, grpc or shm; auto means shared memory here"},
    {"--expert-patience-seconds", "how long an expert without a worker is tried again"},
    {"--hot-experts", "file of experts it computes itself"},
    {"--hot-experts-gib", "memory of these experts at most"},
    {"--routing-counts", "file for how often each expert was chosen"},
    {"--trace", "file for a time line of the last steps"},
    {"--trace-steps", "steps that --trace keeps"},
};

}  // namespace

void AddUpOptions(CLI::App& app, UpOptions* o) {
  app.add_option("--model", o->model, "Model folder or GGUF file")->required();
  app.add_option("--recipe", o->recipe,
                 "Recipe of the cluster (deploy/recipes); --model is its ${model}, other flags win "
                 "over it");
  app.add_option("--cpu-workers", o->cpu_workers, "CPU workers, which hold the experts")
      ->capture_default_str()
      ->check(CLI::Range(0, 64));
  app.add_option("--gpu-threads", o->gpu_threads,
                 "Threads of the GPU worker's host backend; 0: one per core")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  app.add_option("--cpu-threads", o->cpu_threads,
                 "Threads of each CPU worker; 0: the cores shared between them")
      ->capture_default_str()
      ->check(CLI::Range(0, 1024));
  app.add_option("--listen", o->listen, "Address for users; port 0 takes any free one")
      ->capture_default_str();
  app.add_option("--http-listen", o->http_listen,
                 "Address of OpenAI's endpoints; port 0 takes any free one; none: no HTTP")
      ->capture_default_str();
  app.add_option("--wait-ready-seconds", o->wait_ready_seconds,
                 "Give up when the cluster is not ready by then")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 86400.0));
  const std::string no_restart_help = "Leave a worker that died dead",
                    json_help = "Print the state as one JSON line";
  app.add_flag("--no-restart", o->no_restart, no_restart_help);
  app.add_flag("--json", o->json, json_help);
  app.add_option("--log-dir", o->log_dir,
                 "Folder for the programs' logs; a temporary one when empty");
  app.add_option("--state-file", o->state_file,
                 "JSON file with addresses and process ids, kept up to date");
  app.add_option("--gpu-worker-program", o->gpu_worker_program,
                 "Program to start as the GPU worker, a wrapper for a profiler say; "
                 "tandem-gpu-worker beside this program when empty");
  for (const GpuWorkerFlag& flag : kGpuWorkerFlags) {
    AddText(app, flag.name, &o->gpu_worker[flag.name],
            absl::StrCat("GPU worker: ", flag.help).c_str());
  }
  AddText(app, "--routing", &o->routing, "Workers: how old GGUF files are read, assume or as-file");
  AddText(app, "--replicas", &o->replicas, "Coordinator: CPU workers that hold each expert");
  AddText(app, "--replace-after-seconds", &o->replace_after_seconds, "Coordinator: see there");
  AddText(app, "--prefill-chunk", &o->prefill_chunk, "Coordinator: prompt tokens per step");
  AddText(app, "--sequences-max", &o->sequences_max, "Coordinator: requests running at once");
  AddText(app, "--context-tokens", &o->context_tokens, "Coordinator: longest prompt plus answer");
  AddText(app, "--lease-seconds", &o->lease_seconds,
          "Coordinator: a worker silent for so long is lost");
  AddText(app, "--ready-wait-seconds", &o->ready_wait_seconds, "Coordinator: see there");
  AddText(app, "--drain-seconds", &o->drain_seconds,
          "Coordinator: how long running requests may take at the end");
  AddText(app, "--cpu-memory-limit", &o->cpu_memory_limit,
          "CPU workers: most bytes of experts each");
}

absl::Status ApplyRecipe(const CLI::App& app, UpOptions* o) {
  TANDEM_ASSIGN_OR_RETURN(const ServedModel served, OpenServedModel(o->recipe, o->model));
  if (!served.recipe.has_value()) return absl::OkStatus();
  const std::map<std::string, int*> numbers = {{"cpu_workers", &o->cpu_workers},
                                               {"cpu_threads", &o->cpu_threads},
                                               {"gpu_threads", &o->gpu_threads}};
  const std::map<std::string, std::string*> texts = {{"replicas", &o->replicas},
                                                     {"kv_tokens", &o->gpu_worker["--kv-tokens"]},
                                                     {"rows_max", &o->gpu_worker["--rows-max"]},
                                                     {"prefill_chunk", &o->prefill_chunk},
                                                     {"sequences_max", &o->sequences_max},
                                                     {"context_tokens", &o->context_tokens}};
  for (const auto& [key, value] : served.recipe->cluster) {
    const std::string flag = absl::StrCat("--", absl::StrReplaceAll(key, {{"_", "-"}}));
    const auto number = numbers.find(key);
    std::string* text = number == numbers.end() ? texts.at(key) : nullptr;
    const std::string now = text != nullptr ? *text : absl::StrCat(*number->second);
    if (app.count(flag) > 0) {
      if (now != absl::StrCat(value))
        base::LogWarning("flag_wins_over_recipe",
                         {{"flag", flag}, {"value", now}, {"recipe", value}});
    } else if (text != nullptr) {
      *text = absl::StrCat(value);
    } else {
      *number->second = static_cast<int>(value);
    }
  }
  return absl::OkStatus();
}

std::vector<std::string> CoordinatorArgs(const UpOptions& o, const Addresses& own) {
  std::vector<std::string> args = {"--model",
                                   o.model,
                                   "--listen",
                                   own.listen,
                                   "--admin-listen",
                                   own.admin,
                                   "--expect-cpu-workers",
                                   absl::StrCat(o.cpu_workers),
                                   "--http-listen",
                                   own.http};
  Pass("--recipe", o.recipe, &args);
  Pass("--replicas", o.replicas, &args);
  Pass("--replace-after-seconds", o.replace_after_seconds, &args);
  Pass("--prefill-chunk", o.prefill_chunk, &args);
  Pass("--sequences-max", o.sequences_max, &args);
  Pass("--context-tokens", o.context_tokens, &args);
  Pass("--lease-seconds", o.lease_seconds, &args);
  Pass("--ready-wait-seconds", o.ready_wait_seconds, &args);
  // StopAll gives ten seconds.
  Pass("--drain-seconds", o.drain_seconds.empty() ? "8" : o.drain_seconds, &args);
  return args;
}

std::vector<std::string> GpuWorkerArgs(const UpOptions& o, const std::string& coordinator,
                                       const Addresses& own) {
  std::vector<std::string> args = {"--model",  o.model,    "--coordinator",  coordinator,
                                   "--listen", own.listen, "--admin-listen", own.admin};
  Pass("--recipe", o.recipe, &args);
  if (o.gpu_threads > 0) Pass("--threads", absl::StrCat(o.gpu_threads), &args);
  Pass("--routing", o.routing, &args);
  for (const auto& [flag, value] : o.gpu_worker) Pass(flag, value, &args);
  return args;
}

std::vector<std::string> CpuWorkerArgs(const UpOptions& o, const std::string& coordinator,
                                       const Addresses& own) {
  const int cores = std::max(1u, std::thread::hardware_concurrency());
  const int threads =
      o.cpu_threads > 0 ? o.cpu_threads : std::max(1, cores / std::max(1, o.cpu_workers));
  std::vector<std::string> args = {
      "--model",  o.model,          "--coordinator", coordinator, "--listen",
      own.listen, "--admin-listen", own.admin,       "--threads", absl::StrCat(threads)};
  Pass("--recipe", o.recipe, &args);
  Pass("--routing", o.routing, &args);
  Pass("--memory-limit", o.cpu_memory_limit, &args);
  return args;
}

}  // namespace tandem::launcher
