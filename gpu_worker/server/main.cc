// tandem-gpu-worker: the forward pass, KV memory and sampler of a cluster; the routed experts are
// asked of CPU workers.
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gpu_worker/engine/engine.h"
#include "gpu_worker/engine/trace_file.h"
#include "gpu_worker/server/engine_runner.h"
#include "gpu_worker/server/engine_service.h"
#include "gpu_worker/server/hot_experts.h"
#include "gpu_worker/server/make_backend.h"
#include "gpu_worker/server/options.h"
#include "lib/base/check.h"
#include "lib/base/log.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/base/text_file.h"
#include "lib/kernels/kernel_table.h"
#include "lib/model/recipe_linear.h"
#include "lib/model/recipe_sources.h"
#include "lib/rpc/admin_server.h"
#include "lib/rpc/grpc_server.h"
#include "lib/rpc/member_agent.h"
#include "lib/rpc/transport.h"

namespace tandem::gpu_worker {
namespace {

constexpr char kProgram[] = "tandem-gpu-worker";
constexpr char kExamples[] =
    "  tandem-gpu-worker --model models/quiz --coordinator 127.0.0.1:50051\n"
    "  tandem-gpu-worker --model DeepSeek-V3.gguf --coordinator head:50051 --listen 0.0.0.0:50061\n"
    "      --advertise gpu0 --admin-listen 0.0.0.0:9090 --attention flash --kv-tokens 65536";

// How often a new placement epoch is looked for, to tell the coordinator that it is in use.
// Only people read that, so it need not be soon.
constexpr absl::Duration kEpochInterval = absl::Seconds(1);
// How often routing counts are written, counted in such looks.
constexpr int kLooksPerCountsFile = 60;

using membership::v1::WorkerState;

uint64_t BytesPerExpert(const ModelWeights& weights) {
  uint64_t largest = 0;
  for (const LayerWeights& layer : weights.layers) {
    for (const FfnWeights& expert : layer.experts) {
      const int64_t bytes =
          expert.gate.view.size_bytes + expert.up.view.size_bytes + expert.down.view.size_bytes;
      largest = std::max<uint64_t>(largest, bytes);
    }
  }
  return largest;
}

membership::v1::RegisterRequest Registration(const ModelWeights& weights,
                                             const std::string& address) {
  membership::v1::RegisterRequest registration;
  registration.set_kind(membership::v1::WORKER_KIND_GPU);
  registration.set_address(address);
  registration.set_model_digest(weights.digest);
  registration.set_version(base::VersionString());
  for (int64_t layer = 0; layer < weights.config.num_hidden_layers; ++layer) {
    if (weights.config.IsMoeLayer(layer)) registration.add_moe_layers(static_cast<uint32_t>(layer));
  }
  registration.set_experts_per_layer(static_cast<uint32_t>(weights.config.n_routed_experts));
  registration.set_bytes_per_expert(BytesPerExpert(weights));
  return registration;
}

// What this worker serves, and how it computes with it.
struct Opened {
  ServedModel served;
  ModelWeights weights;
  std::vector<AssignedModule> linear;
  LoadOptions load;
};

engine::v1::DescribeResponse Description(const WorkerOptions& o, const Opened& opened,
                                         const BackendInfo& backend, const std::string& worker_id) {
  const ModelWeights& weights = opened.weights;
  engine::v1::DescribeResponse d;
  d.set_worker_id(worker_id);
  d.set_model_digest(weights.digest);
  d.set_kv_pages(static_cast<uint32_t>(backend.kv_pages));
  d.set_page_tokens(kPageTokens);
  d.set_rows_max(static_cast<uint32_t>(backend.rows_max));
  d.set_backend(backend.name);
  d.set_attention(o.attention);
  d.set_precision(o.precision);
  d.set_vocab_size(static_cast<uint32_t>(weights.config.vocab_size));
  d.set_version(base::VersionString());
  d.set_linear_formats(FormatsText(opened.linear));
  return d;
}

// Unique per process, so that a restarted worker is a new one.
std::string WorkerId() {
  return absl::StrCat("gpu-", getpid(), "-", absl::Hex(absl::ToUnixMicros(absl::Now())));
}

// Replaces the trace file by what there is now.
absl::Status WriteTrace(const WorkerOptions& options, const StepTrace& trace) {
  const auto steps = trace.Steps();
  TANDEM_RETURN_IF_ERROR(base::ReplaceFile(options.trace, TraceJson(steps)));
  if (!steps.empty()) {
    base::LogInfo("trace_written", {{"file", options.trace}, {"steps", steps.size()}});
  }
  return absl::OkStatus();
}

// Until a stop is asked for: tells the coordinator which placement is in use, says in the log when
// it is refused, and writes the trace once its steps are there.
void Serve(rpc::MemberAgent& agent, const WorkerOptions& options, const StepTrace& trace,
           const RoutingCountsFile& counts) {
  int looks = 0;
  bool trace_due = !options.trace.empty();
  uint64_t epoch_told = 0;
  absl::Status refusal_told;
  agent.SetState(membership::v1::WORKER_STATE_READY, 0, 0);
  while (!base::WaitForStop(kEpochInterval)) {
    if (++looks % kLooksPerCountsFile == 0) counts.Write();
    if (trace_due && trace.steps_seen() >= trace.steps_max()) {
      trace_due = false;
      const absl::Status written = WriteTrace(options, trace);
      if (!written.ok()) base::LogError("trace_not_written", {{"why", written.ToString()}});
    }
    const auto placement = agent.placement();
    if (placement != nullptr && placement->epoch() != epoch_told) {
      epoch_told = placement->epoch();
      agent.SetState(membership::v1::WORKER_STATE_READY, epoch_told, 0);
      base::LogInfo("placement_in_use", {{"epoch", epoch_told}});
    }
    if (const absl::Status refusal = agent.refusal(); refusal != refusal_told) {
      refusal_told = refusal;
      if (!refusal.ok()) base::LogError("refused_by_coordinator", {{"why", refusal.ToString()}});
    }
  }
}

// No new sequences come from a coordinator that knows; those there are may end.
void Drain(rpc::MemberAgent& agent, rpc::GrpcServer& server, EngineService& service,
           const EngineRunner& runner, absl::Duration drain_max) {
  const auto placement = agent.placement();
  agent.SetState(membership::v1::WORKER_STATE_DRAINING,
                 placement == nullptr ? 0 : placement->epoch(), 0);
  server.SetServing(false);
  base::LogInfo("draining", {{"sequences", runner.live_sequences()},
                             {"seconds_max", absl::ToDoubleSeconds(drain_max)}});
  const absl::Time end = absl::Now() + drain_max;
  while (runner.live_sequences() > 0 && absl::Now() < end) absl::SleepFor(absl::Milliseconds(20));
  service.EndStream(absl::UnavailableError("the GPU worker is shutting down"));
  server.Shutdown(absl::Seconds(1));
}

// `agent` holds null until the worker has registered.
WorkerPoolOptions PoolOptions(const std::atomic<rpc::MemberAgent*>& agent,
                              const WorkerOptions& options, LocalExperts* local) {
  const std::optional<rpc::TransportChoice> choice =
      rpc::ParseTransportChoice(options.expert_transport);
  TANDEM_CHECK(choice.has_value());  // the command line lets nothing else in
  return {[&agent]() -> std::shared_ptr<const membership::v1::Placement> {
            const rpc::MemberAgent* there = agent;
            return there == nullptr ? nullptr : there->placement();
          },
          [&agent](uint64_t epoch_seen, absl::Duration wait_max) {
            rpc::MemberAgent* there = agent;
            return there != nullptr && there->RefreshPlacement(epoch_seen, wait_max);
          },
          [choice](const std::string& address) { return rpc::MakeTransport(address, *choice); },
          local == nullptr ? LocalReplicas() : local->replicas()};
}

// Brings `options` in line with the recipe, too.
absl::StatusOr<Opened> OpenModel(const GivenFlags& given, WorkerOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(ServedModel served, OpenServedModel(options.recipe, options.model));
  if (served.recipe.has_value()) ApplyRecipe(*served.recipe, given, &options);
  LoadOptions load;
  load.routing = options.routing == "as-file" ? OldFileRouting::kAsFile : OldFileRouting::kAssume;
  TANDEM_ASSIGN_OR_RETURN(ModelWeights weights, LoadModel(served.sources, load));
  for (const std::string& assumption : weights.config.assumptions) {
    base::LogWarning("model_assumption", {{"what", assumption}});
  }
  TANDEM_ASSIGN_OR_RETURN(std::vector<AssignedModule> linear,
                          LinearLayers(options, served.recipe, given, weights.config));
  base::LogInfo("model_opened", {{"model", options.model},
                                 {"digest", weights.digest},
                                 {"layers", weights.config.num_hidden_layers},
                                 {"linear", FormatsText(linear)}});
  return Opened{std::move(served), std::move(weights), std::move(linear), load};
}

// `metrics` and `ready` must outlive the server.
absl::StatusOr<std::unique_ptr<rpc::AdminServer>> StartAdmin(const WorkerOptions& options,
                                                             telemetry::Metrics& metrics,
                                                             const std::atomic<bool>& ready) {
  rpc::AdminOptions admin;
  admin.listen = options.admin_listen;
  admin.metrics = &metrics;
  admin.ready = [&ready] {
    return ready ? absl::OkStatus() : absl::UnavailableError("loading or draining");
  };
  return rpc::AdminServer::Start(std::move(admin));
}

// Says in an error of memory what hot experts have taken of it.
absl::StatusOr<std::unique_ptr<Backend>> BackendBeside(const LocalExperts* local,
                                                       const WorkerOptions& options,
                                                       const Opened& opened) {
  auto backend = MakeBackend(options, opened.weights, opened.linear);
  if (local == nullptr || options.backend == "host" ||
      backend.status().code() != absl::StatusCode::kResourceExhausted) {
    return backend;
  }
  return absl::ResourceExhaustedError(absl::StrCat(
      std::string(backend.status().message()), "; ", local->experts(), " hot experts have taken ",
      base::HumanBytes(local->weight_bytes()), " of the device before: name fewer of them"));
}

absl::Status Run(const GivenFlags& given, WorkerOptions options, const HotExpertOptions& hot) {
  TANDEM_RETURN_IF_ERROR(CheckWorkerOptions(options));
  TANDEM_RETURN_IF_ERROR(kernels::CheckIsa());
  telemetry::Metrics metrics;
  std::atomic<bool> ready = false;
  TANDEM_ASSIGN_OR_RETURN(const auto admin, StartAdmin(options, metrics, ready));
  base::LogInfo("admin_serving", {{"port", admin->port()}});

  TANDEM_ASSIGN_OR_RETURN(const Opened opened, OpenModel(given, options));
  const ModelWeights& weights = opened.weights;
  // First: what they take of a device's memory, the backend's plan must not count on.
  TANDEM_ASSIGN_OR_RETURN(const auto local,
                          LoadHotExperts(hot, opened.served, opened.load, ThreadsOf(options),
                                         MakeExpertBackend(options)));
  TANDEM_ASSIGN_OR_RETURN(const auto backend, BackendBeside(local.get(), options, opened));

  // The engine's thread asks for placements through this; it is set once the address to register is
  // known.
  std::unique_ptr<rpc::MemberAgent> agent;
  std::atomic<rpc::MemberAgent*> membership = nullptr;
  WorkerPool workers(PoolOptions(membership, options, local.get()));
  ExpertLink experts(workers, {weights.digest, absl::Seconds(options.expert_patience_seconds)});
  RoutingCountsFile counts(hot, weights);
  experts.CountRouting(counts.counter());
  StepTrace trace(options.trace_steps);
  if (!options.trace.empty()) TANDEM_RETURN_IF_ERROR(WriteTrace(options, trace));
  const int64_t half_rows_min = HalfRowsMin(options, weights.config, backend->info());
  Engine engine(weights.config, *backend, &experts,
                {half_rows_min, options.trace.empty() ? nullptr : &trace});
  EngineMetrics engine_metrics(metrics, backend->info().kv_pages);
  EngineRunner runner(engine, &experts, engine_metrics);
  const std::string worker_id = WorkerId();
  const auto service =
      EngineService::Make(runner, Description(options, opened, backend->info(), worker_id));
  TANDEM_ASSIGN_OR_RETURN(const auto server,
                          rpc::GrpcServer::Start(options.listen, {service->service()}));
  TANDEM_ASSIGN_OR_RETURN(const std::string address,
                          AdvertisedAddress(options, server->address(), server->port()));

  membership::v1::RegisterRequest registration = Registration(weights, address);
  registration.set_worker_id(worker_id);
  if (opened.served.recipe.has_value())
    registration.set_recipe_digest(opened.served.recipe->digest);
  agent = rpc::MemberAgent::Start({options.coordinator, std::move(registration), {}});
  membership = agent.get();
  server->SetServing(true);
  ready = true;
  base::LogInfo("gpu_worker_serving", {{"worker", worker_id},
                                       {"address", address},
                                       {"admin_port", admin->port()},
                                       {"backend", backend->info().name},
                                       {"attention", options.attention},
                                       {"precision", options.precision},
                                       {"linear", FormatsText(opened.linear)},
                                       {"expert_transport", options.expert_transport},
                                       {"half_batches_from_rows", half_rows_min},
                                       {"hot_experts", local == nullptr ? 0 : local->experts()},
                                       {"kv_pages", backend->info().kv_pages},
                                       {"threads", ThreadsOf(options)},
                                       {"version", base::VersionString()}});
  Serve(*agent, options, trace, counts);
  ready = false;
  Drain(*agent, *server, *service, runner, absl::Seconds(options.drain_seconds));
  if (!options.trace.empty()) TANDEM_RETURN_IF_ERROR(WriteTrace(options, trace));
  counts.Write();
  base::LogInfo("gpu_worker_stopped");
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("Runs attention, dense layers, router and sampler for a Tandem cluster.", kProgram);
  WorkerOptions options;
  AddWorkerOptions(app, &options);
  HotExpertOptions hot;
  AddHotExpertOptions(app, &hot);
  base::AddStandardOptions(app, kExamples);
  if (const int code = base::ParseOrExitCode(app, argc, argv); code >= 0) return code;
  base::InstallStopSignals();
  const absl::Status status = Run(GivenFlagsOf(app), options, hot);
  return status.ok() ? 0 : base::CannotStart(kProgram, status);
}

}  // namespace
}  // namespace tandem::gpu_worker

int main(int argc, char** argv) { return tandem::gpu_worker::Main(argc, argv); }
