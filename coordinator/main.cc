// tandem-coordinator: plans token steps for GPU workers, knows who holds which experts, and serves
// users.
#include <algorithm>
#include <atomic>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "coordinator/api/http_front.h"
#include "coordinator/api/inference_service.h"
#include "coordinator/api/membership_service.h"
#include "coordinator/membership/registry.h"
#include "coordinator/request/text_model.h"
#include "coordinator/step/step_loop.h"
#include "lib/base/log.h"
#include "lib/base/program.h"
#include "lib/model/recipe_sources.h"
#include "lib/rpc/admin_server.h"
#include "lib/rpc/grpc_server.h"

namespace tandem::coordinator {
namespace {

constexpr char kProgram[] = "tandem-coordinator";
constexpr char kExamples[] =
    "  tandem-coordinator --model models/quiz --listen 127.0.0.1:50051 --expect-cpu-workers 2\n"
    "  tandem-coordinator --model DeepSeek-V3.gguf --listen 0.0.0.0:50051 --admin-listen "
    "0.0.0.0:9090\n"
    "      --expect-cpu-workers 8 --replicas 2 --replace-after-seconds 60";
// What is computed may still have to be sent when the last request has ended.
constexpr absl::Duration kLastWordsMax = absl::Seconds(1);
// How often leases are looked at; at most, see TickInterval.
constexpr absl::Duration kTickIntervalMax = absl::Milliseconds(500);

struct Options {
  std::string model;
  std::string recipe;
  std::string listen = "127.0.0.1:50051";
  std::string admin_listen = "127.0.0.1:0";
  uint32_t expect_cpu_workers = 1;
  uint32_t replicas = 1;
  double replace_after_seconds = -1;
  double heartbeat_seconds = 1;
  double lease_seconds = 3;
  uint32_t context_tokens = 0;
  uint32_t queue_max = 1024;
  uint32_t sequences_max = 64;
  uint32_t prefill_chunk = 512;
  double step_timeout_seconds = 120;
  double ready_wait_seconds = 30;
  double drain_seconds = 30;
  HttpFrontOptions http;
};

void AddOptions(CLI::App& app, Options* o) {
  app.add_option("--model", o->model,
                 "Model folder (config and tokenizer are read, no weights) or GGUF file")
      ->required();
  app.add_option("--recipe", o->recipe,
                 "Recipe of the cluster, the same as the workers'; --model is its ${model}");
  app.add_option("--listen", o->listen, "Address for users and workers")->capture_default_str();
  app.add_option("--admin-listen", o->admin_listen, "Address of /metrics, /healthz, /readyz")
      ->capture_default_str();
  app.add_option("--expect-cpu-workers", o->expect_cpu_workers,
                 "Experts are dealt when so many have registered")
      ->capture_default_str()
      ->check(CLI::Range(0, 4096));
  app.add_option("--replicas", o->replicas, "CPU workers that hold each expert")
      ->capture_default_str()
      ->check(CLI::Range(1, 16));
  app.add_option("--replace-after-seconds", o->replace_after_seconds,
                 "Deal the experts of a lost worker to the others after so long; negative: only to "
                 "a joining worker")
      ->capture_default_str();
  app.add_option(
         "--heartbeat-seconds", o->heartbeat_seconds,
         "Asked of CPU workers; GPU workers send two in that time. A third of the lease at most")
      ->capture_default_str()
      ->check(CLI::Range(0.02, 60.0));
  app.add_option("--lease-seconds", o->lease_seconds, "A worker silent for so long is lost")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 600.0));
  app.add_option("--context-tokens", o->context_tokens,
                 "Longest prompt plus answer; 0: what the model allows")
      ->capture_default_str();
  app.add_option("--queue-max", o->queue_max, "Requests running or waiting before more are refused")
      ->capture_default_str()
      ->check(CLI::Range(1, 1000000));
  app.add_option("--sequences-max", o->sequences_max, "Requests running at once")
      ->capture_default_str()
      ->check(CLI::Range(1, 65536));
  app.add_option("--prefill-chunk", o->prefill_chunk, "Prompt tokens per step")
      ->capture_default_str()
      ->check(CLI::Range(1, 65536));
  app.add_option("--step-timeout-seconds", o->step_timeout_seconds,
                 "A GPU worker that takes longer for a step is lost")
      ->capture_default_str()
      ->check(CLI::Range(0.1, 3600.0));
  app.add_option("--ready-wait-seconds", o->ready_wait_seconds,
                 "How long a request without a deadline waits for a cluster that is not ready")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  app.add_option("--drain-seconds", o->drain_seconds,
                 "How long running requests may take after SIGTERM")
      ->capture_default_str()
      ->check(CLI::Range(0.0, 86400.0));
  AddHttpOptions(app, &o->http);
}

RegistryOptions RegistryOptionsOf(const Options& o) {
  RegistryOptions out;
  out.cpu_workers_expected = o.expect_cpu_workers;
  out.replicas = o.replicas;
  out.lease = absl::Seconds(o.lease_seconds);
  out.heartbeat_interval = std::min(absl::Seconds(o.heartbeat_seconds), out.lease / 3);
  if (o.replace_after_seconds >= 0) out.replace_after = absl::Seconds(o.replace_after_seconds);
  return out;
}

StepLoopOptions LoopOptionsOf(const Options& o) {
  StepLoopOptions out;
  out.requests_max = o.queue_max;
  out.sequences_max = o.sequences_max;
  out.prefill_rows_max = o.prefill_chunk;
  out.step_timeout = absl::Seconds(o.step_timeout_seconds);
  out.ready_wait = absl::Seconds(o.ready_wait_seconds);
  return out;
}

uint32_t ContextTokens(const Options& o, const ModelConfig& config) {
  const uint32_t of_model = static_cast<uint32_t>(config.max_position_embeddings);
  return o.context_tokens == 0 ? of_model : std::min(o.context_tokens, of_model);
}

// Gauges that are read off the registry now and then.
struct ClusterGauges {
  explicit ClusterGauges(telemetry::Metrics* m)
      : ready(
            m->Gauge("tandem_ready",
                     "1 when every expert is placed on a ready worker and a GPU worker is ready.")),
        epoch(m->Gauge("tandem_placement_epoch", "Epoch of the placement table.")),
        uncovered(m->Gauge("tandem_experts_uncovered", "Experts without a ready CPU worker.")),
        below_replicas(m->Gauge("tandem_experts_below_replicas",
                                "Experts on fewer CPU workers than --replicas asks for.")),
        cpu_ready(m->Gauge("tandem_workers_ready", "Workers that are ready.", {{"kind", "cpu"}})),
        gpu_ready(m->Gauge("tandem_workers_ready", "Workers that are ready.", {{"kind", "gpu"}})) {
    m->Gauge("tandem_build_info", "Always 1.", {{"version", base::VersionString()}}).Set(1);
  }
  void Update(const Registry& registry) {
    const ClusterSummary summary = registry.Summary();
    ready.Set(registry.Readiness().ok());
    epoch.Set(static_cast<double>(summary.epoch));
    uncovered.Set(static_cast<double>(summary.experts_uncovered));
    below_replicas.Set(static_cast<double>(summary.experts_below_replicas));
    cpu_ready.Set(summary.cpu_workers_ready);
    gpu_ready.Set(summary.gpu_workers_ready);
  }
  prometheus::Gauge &ready, &epoch, &uncovered, &below_replicas, &cpu_ready, &gpu_ready;
};

// The end of a lease is seen within a sixth of it: for the default of 3 s that is half a second.
absl::Duration TickInterval(const Options& o) {
  return std::min(kTickIntervalMax, absl::Seconds(o.lease_seconds) / 6);
}

// Until a stop is asked for.
void Serve(Registry* registry, ClusterGauges* gauges, absl::Duration tick_interval) {
  absl::Status last = absl::UnknownError("not looked yet");
  while (!base::WaitForStop(tick_interval)) {
    registry->Tick();
    gauges->Update(*registry);
    const absl::Status ready = registry->Readiness();
    if (ready == last) continue;
    last = ready;
    base::LogInfo("cluster_readiness",
                  {{"ready", ready.ok() ? "true" : "false"}, {"reason", ready.message()}});
  }
}

// New requests are refused, running ones may finish; workers stay registered meanwhile.
void Drain(StepLoop* loop, Registry* registry, rpc::GrpcServer* server, absl::Duration drain_max) {
  server->SetServing(false);
  loop->Drain();
  base::LogInfo("draining", {{"requests", loop->requests()},
                             {"seconds_max", absl::ToDoubleSeconds(drain_max)}});
  const absl::Time end = absl::Now() + drain_max;
  while (loop->requests() > 0 && absl::Now() < end) {
    registry->Tick();
    absl::SleepFor(absl::Milliseconds(20));
  }
}

int Main(int argc, char** argv) {
  CLI::App app("Plans token steps, places experts, serves users.", kProgram);
  Options options;
  AddOptions(app, &options);
  base::AddStandardOptions(app, kExamples);
  if (const int code = base::ParseOrExitCode(app, argc, argv); code >= 0) return code;
  base::InstallStopSignals();

  const absl::StatusOr<ServedModel> served = OpenServedModel(options.recipe, options.model);
  if (!served.ok()) return base::CannotStart(kProgram, served.status());
  absl::StatusOr<std::unique_ptr<TextModel>> model = TextModel::Load(served->sources);
  if (!model.ok()) return base::CannotStart(kProgram, model.status());
  telemetry::Metrics metrics;
  CoordinatorMetrics counters(&metrics);
  ClusterGauges gauges(&metrics);
  std::atomic<StepLoop*> to_wake = nullptr;  // the registry is there first, and is heard of later
  RegistryOptions registry_options = RegistryOptionsOf(options);
  registry_options.recipe_digest = served->recipe_digest();
  registry_options.on_change = [&to_wake] {
    if (StepLoop* loop = to_wake; loop != nullptr) loop->Wake();
  };
  Registry registry(registry_options, &base::RealClock());
  ClusterView cluster{[&] { return registry.Readiness(); },
                      [&] { return registry.ReadyGpuWorkers(); }};
  StepLoop loop(LoopOptionsOf(options), std::move(cluster), &(*model)->tokenizer(), &counters,
                &base::RealClock());
  to_wake = &loop;
  const InferenceParts parts = {model->get(),
                                &loop,
                                &registry,
                                &base::RealClock(),
                                ContextTokens(options, (*model)->config()),
                                served->recipe ? served->recipe->name : "",
                                served->recipe_digest()};
  const auto inference = MakeInferenceService(parts);
  const auto membership = MakeMembershipService(&registry);
  auto server = rpc::GrpcServer::Start(options.listen, {inference.get(), membership.get()},
                                       rpc::Traffic::kQuiet);
  if (!server.ok()) return base::CannotStart(kProgram, server.status());
  rpc::AdminOptions admin_options;
  admin_options.listen = options.admin_listen;
  admin_options.metrics = &metrics;
  admin_options.ready = [&] { return loop.Readiness(); };
  auto admin = rpc::AdminServer::Start(std::move(admin_options));
  if (!admin.ok()) return base::CannotStart(kProgram, admin.status());
  auto http = HttpFront::Start(options.http, parts, served->sources.dense, &metrics);
  if (!http.ok()) return base::CannotStart(kProgram, http.status());

  (*server)->SetServing(true);
  base::LogInfo("coordinator_serving", {{"address", (*server)->address()},
                                        {"http", (*http)->address()},
                                        {"admin_port", (*admin)->port()},
                                        {"model", (*model)->name()},
                                        {"version", base::VersionString()}});
  Serve(&registry, &gauges, TickInterval(options));
  Drain(&loop, &registry, server->get(), absl::Seconds(options.drain_seconds));
  (*http)->Finish(kLastWordsMax);
  (*server)->Shutdown(kLastWordsMax);
  to_wake = nullptr;
  base::LogInfo("coordinator_stopped");
  return 0;
}

}  // namespace
}  // namespace tandem::coordinator

int main(int argc, char** argv) { return tandem::coordinator::Main(argc, argv); }
