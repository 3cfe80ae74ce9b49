// tandem-cpu-worker: holds routed experts and computes them for GPU workers.
#include <cstdio>
#include <string>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "cpu_worker/server/worker.h"
#include "lib/base/log.h"
#include "lib/base/program.h"
#include "lib/kernels/kernel_table.h"

namespace tandem::cpu_worker {
namespace {

constexpr char kExamples[] =
    "  tandem-cpu-worker --model /models/v3-q4_K_M.gguf --coordinator 10.0.0.1:7000 \\\n"
    "      --listen 10.0.0.7:7100 --admin-listen 0.0.0.0:9100 --memory-limit 200GiB\n"
    "  tandem-cpu-worker --config /etc/tandem/cpu-worker.yaml --threads 32\n"
    "  TANDEM_ISA=avx2 tandem-cpu-worker --model quiz.gguf --coordinator 127.0.0.1:7000";

// Load and gauges change at the speed of a dashboard.
constexpr absl::Duration kTickInterval = absl::Seconds(2);

struct Flags {
  WorkerOptions worker;
  std::string routing = "assume";
  bool no_shm = false;
  uint64_t memory_limit_bytes = 0;
  double drain_seconds = 5.0;
};

void AddFlags(CLI::App& app, Flags* flags) {
  WorkerOptions& worker = flags->worker;
  app.add_option("--model", worker.model_path, "GGUF file, safetensors file or model folder")
      ->required();
  app.add_option("--recipe", worker.recipe_path,
                 "Recipe that names where experts come from; --model is its ${model}");
  app.add_option("--coordinator", worker.coordinator, "host:port of the coordinator")->required();
  app.add_option("--listen", worker.listen,
                 "host:port for GPU workers, port 0 takes any free one; or unix:path, for those of "
                 "this host")
      ->capture_default_str();
  app.add_option("--advertise", worker.advertise,
                 "host[:port] others reach this worker at, when --listen is not it");
  app.add_option("--admin-listen", worker.admin_listen, "host:port of /metrics, /healthz, /readyz")
      ->capture_default_str();
  const std::string no_shm_help =
      "Do not serve GPU workers of this host through shared memory, only through gRPC";
  app.add_flag("--no-shm", flags->no_shm, no_shm_help);
  app.add_option("--name", worker.name, "worker id; made up when empty");
  app.add_option("--threads", worker.threads,
                 "threads that compute; 0: one for each physical core it may use, each on its own")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--numa-node", worker.numa_node,
                 "keep threads and experts on this memory node (see numactl -H); -1: use all")
      ->check(CLI::Range(-1, 1023))
      ->capture_default_str();
  app.add_option(
         "--memory-limit", flags->memory_limit_bytes,
         "most bytes of experts to hold, as packed in memory, such as 200GiB; 0 is no limit")
      ->transform(CLI::AsSizeValue(false));
  app.add_option("--routing", flags->routing,
                 "how old GGUF files without routing metadata are read: assume or as-file")
      ->check(CLI::IsMember({"assume", "as-file"}))
      ->capture_default_str();
  app.add_option("--drain-seconds", flags->drain_seconds,
                 "after SIGTERM, how long to go on answering callers that have not moved away")
      ->check(CLI::Range(0.0, 600.0))
      ->capture_default_str();
}

int Run(int argc, char** argv) {
  CLI::App app("Holds routed experts and computes them for GPU workers.", "tandem-cpu-worker");
  Flags flags;
  flags.worker.threads = 0;
  AddFlags(app, &flags);
  base::AddStandardOptions(app, kExamples);
  const int exit_code = base::ParseOrExitCode(app, argc, argv);
  if (exit_code >= 0) return exit_code;
  base::InstallStopSignals();
  flags.worker.memory_bytes_max = static_cast<int64_t>(flags.memory_limit_bytes);
  flags.worker.shm = !flags.no_shm;
  flags.worker.load.routing =
      flags.routing == "as-file" ? OldFileRouting::kAsFile : OldFileRouting::kAssume;

  auto worker = Worker::Start(flags.worker);
  if (!worker.ok()) return base::CannotStart("tandem-cpu-worker", worker.status());
  base::LogInfo("expert_worker_started", {{"worker", (*worker)->worker_id()},
                                          {"address", (*worker)->address()},
                                          {"admin_port", (*worker)->admin_port()},
                                          {"isa", kernels::ActiveTable().isa}});
  do {
    (*worker)->Tick();
  } while (!base::WaitForStop(kTickInterval));
  base::LogInfo("expert_worker_draining");
  (*worker)->Drain(absl::Seconds(flags.drain_seconds));
  worker->reset();
  base::LogInfo("expert_worker_stopped");
  return 0;
}

}  // namespace
}  // namespace tandem::cpu_worker

int main(int argc, char** argv) { return tandem::cpu_worker::Run(argc, argv); }
