#include "cpu_worker/server/worker.h"

#include <algorithm>
#include <atomic>
#include <set>
#include <thread>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "cpu_worker/server/compute_loop.h"
#include "cpu_worker/server/expert_service.h"
#include "cpu_worker/server/placement_share.h"
#include "lib/base/clock.h"
#include "lib/base/log.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"
#include "lib/base/text.h"
#include "lib/base/topology.h"
#include "lib/experts/expert_store.h"
#include "lib/kernels/kernel_table.h"
#include "lib/model/recipe_sources.h"
#include "lib/rpc/address.h"
#include "lib/rpc/admin_server.h"
#include "lib/rpc/grpc_server.h"
#include "lib/rpc/member_agent.h"
#include "lib/rpc/shm_server.h"

namespace tandem::cpu_worker {
namespace {

using membership::v1::Placement;
using membership::v1::WorkerState;

// Callers move away when they see the next placement table, within a heartbeat or two. A worker
// that has heard nothing for this long while draining is no longer used.
constexpr absl::Duration kQuietBeforeEnd = absl::Milliseconds(500);

// The coordinator balances on load; changes smaller than this are not worth a message.
constexpr int kLoadStepPercent = 5;

// What others are told: `advertise` with the real port where it names none, or the listening
// address.
absl::StatusOr<std::string> AdvertisedAddress(const std::string& advertise,
                                              const std::string& listening, int port) {
  if (!advertise.empty()) {
    const absl::StatusOr<rpc::HostPort> parsed = rpc::ParseHostPort(advertise);
    if (!parsed.ok()) {
      return rpc::FormatHostPort({advertise, static_cast<uint16_t>(port)});
    }
    return rpc::FormatHostPort(
        {parsed->host, parsed->port == 0 ? static_cast<uint16_t>(port) : parsed->port});
  }
  if (absl::StartsWith(listening, "0.0.0.0:") || absl::StartsWith(listening, "[::]:")) {
    return absl::InvalidArgumentError(
        absl::StrCat("listening on ", listening,
                     " is no address others can call: say which with --advertise HOST[:PORT]"));
  }
  return listening;
}

class WorkerImpl final : public Worker {
 public:
  explicit WorkerImpl(const WorkerOptions& options) : options_(options) {}
  ~WorkerImpl() override;

  absl::Status Open();

  const std::string& address() const override { return address_; }
  int admin_port() const override { return admin_->port(); }
  const std::string& worker_id() const override { return agent_->worker_id(); }
  absl::Status Ready() const override;
  void Tick() override;
  void Drain(absl::Duration grace) override;

 private:
  absl::Status OpenPorts();
  void Register();
  void TakePlacement(std::shared_ptr<const Placement> placement);
  void LoaderMain();
  void Load(const Placement& placement);
  void SetState(WorkerState state);
  void Report();
  int LoadPercent();
  experts::v1::DescribeResponse Describe() const;

  const WorkerOptions options_;
  telemetry::Metrics metrics_;
  std::string recipe_digest_;
  std::unique_ptr<ExpertStore> store_;
  std::unique_ptr<ComputeLoop> loop_;
  std::shared_ptr<grpc::Service> service_;
  std::unique_ptr<rpc::GrpcServer> server_;
  std::unique_ptr<rpc::ShmServer> shm_;  // null where switched off
  std::unique_ptr<rpc::AdminServer> admin_;
  std::string address_;

  absl::Mutex report_mutex_;  // taken before mutex_
  mutable absl::Mutex mutex_;
  std::shared_ptr<const Placement> next_placement_ ABSL_GUARDED_BY(mutex_);  // not yet loaded
  absl::Status ready_ ABSL_GUARDED_BY(mutex_) =
      absl::UnavailableError("waiting for a placement table from the coordinator");
  WorkerState state_ ABSL_GUARDED_BY(mutex_) = membership::v1::WORKER_STATE_LOADING;
  std::string worker_id_ ABSL_GUARDED_BY(mutex_);
  std::atomic<bool> stopping_{false};
  std::thread loader_;
  std::unique_ptr<rpc::MemberAgent> agent_;

  std::atomic<int> load_percent_reported_{0};
  // Tick only.
  double busy_seconds_seen_ = 0;
  absl::Duration busy_seen_at_ = base::RealClock().Monotonic();
};

absl::Status WorkerImpl::Open() {
  TANDEM_RETURN_IF_ERROR(kernels::CheckIsa());
  TANDEM_ASSIGN_OR_RETURN(const base::Topology topology, base::DetectTopology());
  TANDEM_ASSIGN_OR_RETURN(const base::ThreadPlan threads,
                          base::PlanThreads(topology, options_.threads, options_.numa_node));
  TANDEM_ASSIGN_OR_RETURN(const ServedModel served,
                          OpenServedModel(options_.recipe_path, options_.model_path));
  recipe_digest_ = served.recipe_digest();
  TANDEM_ASSIGN_OR_RETURN(store_, ExpertStore::Open({.model_path = served.sources.experts,
                                                     .dense_path = served.sources.dense,
                                                     .load = options_.load,
                                                     .memory_bytes_max = options_.memory_bytes_max,
                                                     .load_places = threads.background,
                                                     .memory_nodes = threads.memory_nodes},
                                                    kernels::ActiveTable()));
  base::LogInfo("threads_placed", {{"threads", threads.compute.size()},
                                   {"nodes", threads.compute.back().node + 1},
                                   {"cores", topology.cores()},
                                   {"cpu_quota", topology.cpu_quota},
                                   {"pinned", threads.pinned}});
  ComputeLoop::Options loop;
  loop.store = store_.get();
  loop.table = &kernels::ActiveTable();
  loop.metrics = &metrics_;
  loop.places = threads.compute;
  loop_ = std::make_unique<ComputeLoop>(loop);
  TANDEM_RETURN_IF_ERROR(OpenPorts());
  loader_ = std::thread([this] { LoaderMain(); });
  Register();
  return absl::OkStatus();
}

absl::Status WorkerImpl::OpenPorts() {
  service_ = MakeExpertService({.loop = loop_.get(), .describe = [this] { return Describe(); }});
  TANDEM_ASSIGN_OR_RETURN(server_, rpc::GrpcServer::Start(options_.listen, {service_.get()}));
  TANDEM_ASSIGN_OR_RETURN(
      address_, AdvertisedAddress(options_.advertise, server_->address(), server_->port()));
  if (options_.shm) {
    TANDEM_ASSIGN_OR_RETURN(shm_, rpc::ShmServer::Start({.address = address_}, loop_->wake_set()));
    loop_->Serve(shm_.get());
  }
  rpc::AdminOptions admin;
  admin.listen = options_.admin_listen;
  admin.metrics = &metrics_;
  admin.ready = [this] { return Ready(); };
  TANDEM_ASSIGN_OR_RETURN(admin_, rpc::AdminServer::Start(std::move(admin)));
  return absl::OkStatus();
}

void WorkerImpl::Register() {
  rpc::MemberAgentOptions agent;
  agent.coordinator_address = options_.coordinator;
  membership::v1::RegisterRequest& registration = agent.registration;
  registration.set_worker_id(options_.name);
  registration.set_kind(membership::v1::WORKER_KIND_CPU);
  registration.set_address(address_);
  registration.set_model_digest(store_->digest());
  registration.set_recipe_digest(recipe_digest_);
  registration.set_expert_memory_bytes(static_cast<uint64_t>(options_.memory_bytes_max));
  registration.set_version(base::VersionString());
  for (uint32_t layer : store_->MoeLayers()) registration.add_moe_layers(layer);
  registration.set_experts_per_layer(static_cast<uint32_t>(store_->config().n_routed_experts));
  registration.set_bytes_per_expert(static_cast<uint64_t>(store_->ExpertBytesMax()));
  agent.on_placement = [this](std::shared_ptr<const Placement> placement) {
    TakePlacement(std::move(placement));
  };
  agent_ = rpc::MemberAgent::Start(std::move(agent));
  absl::MutexLock lock(&mutex_);
  worker_id_ = agent_->worker_id();
}

WorkerImpl::~WorkerImpl() {
  stopping_.store(true);
  {
    absl::MutexLock lock(&mutex_);  // wakes the loader, which waits on a condition of this mutex
  }
  if (loader_.joinable()) loader_.join();
  agent_.reset();  // after the loader, which reports through it
  if (server_ != nullptr) server_->Shutdown(absl::Seconds(1));
  admin_.reset();
  server_.reset();
  loop_.reset();
  shm_.reset();
}

absl::Status WorkerImpl::Ready() const {
  absl::MutexLock lock(&mutex_);
  return ready_;
}

void WorkerImpl::TakePlacement(std::shared_ptr<const Placement> placement) {
  absl::MutexLock lock(&mutex_);
  next_placement_ = std::move(placement);
}

void WorkerImpl::LoaderMain() {
  for (;;) {
    std::shared_ptr<const Placement> placement;
    {
      const auto has_news = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
        return stopping_.load() || (next_placement_ != nullptr && !worker_id_.empty());
      };
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(&has_news), absl::Seconds(10));
      if (stopping_.load()) return;
      if (next_placement_ == nullptr || worker_id_.empty()) continue;
      placement = std::exchange(next_placement_, nullptr);
    }
    Load(*placement);
  }
}

void WorkerImpl::Load(const Placement& placement) {
  std::string own_id;
  {
    absl::MutexLock lock(&mutex_);
    own_id = worker_id_;
  }
  const absl::StatusOr<std::optional<std::set<ExpertKey>>> share =
      ShareOf(placement, own_id, store_->digest());
  if (share.ok() && !share->has_value()) {
    base::LogInfo("placement_without_us", {{"epoch", placement.epoch()}});
    return;
  }
  const absl::Duration start = base::RealClock().Monotonic();
  absl::Status status = share.status();
  if (status.ok()) {
    status = store_->Place(**share, [this] { return !stopping_.load(); });
  }
  if (stopping_.load()) return;
  if (!status.ok()) {
    base::LogError("placement_not_loaded",
                   {{"epoch", placement.epoch()}, {"error", std::string(status.message())}});
    absl::MutexLock lock(&mutex_);
    ready_ = status;
    return;
  }
  loop_->set_epoch(placement.epoch());
  const std::shared_ptr<const HeldExperts> held = store_->held();
  base::LogInfo("experts_loaded",
                {{"epoch", placement.epoch()},
                 {"experts", held->experts().size()},
                 {"bytes", held->weight_bytes()},
                 {"stored_bytes", held->stored_bytes()},
                 {"huge_page_bytes", store_->BytesOnHugePages()},
                 {"threads_not_bound", loop_->threads_not_bound()},
                 {"seconds", absl::ToDoubleSeconds(base::RealClock().Monotonic() - start)}});
  {
    absl::MutexLock lock(&mutex_);
    if (state_ == membership::v1::WORKER_STATE_DRAINING) return;
    ready_ = absl::OkStatus();
    server_->SetServing(true);
  }
  SetState(membership::v1::WORKER_STATE_READY);
}

// Draining is final: a load that ends late does not make the worker ready again.
void WorkerImpl::SetState(WorkerState state) {
  {
    absl::MutexLock lock(&mutex_);
    if (state_ != membership::v1::WORKER_STATE_DRAINING) state_ = state;
  }
  Report();
}

// One report at a time, so that an older state never follows a newer one.
void WorkerImpl::Report() {
  absl::MutexLock report_lock(&report_mutex_);
  WorkerState state;
  {
    absl::MutexLock lock(&mutex_);
    state = state_;
  }
  agent_->SetState(state, loop_->epoch(), static_cast<uint32_t>(load_percent_reported_.load()));
}

int WorkerImpl::LoadPercent() {
  const absl::Duration now = base::RealClock().Monotonic();
  const double busy = loop_->busy_seconds();
  const double wall = absl::ToDoubleSeconds(now - busy_seen_at_);
  const double share = wall > 0 ? (busy - busy_seconds_seen_) / wall : 0.0;
  busy_seconds_seen_ = busy;
  busy_seen_at_ = now;
  return static_cast<int>(std::clamp(share, 0.0, 1.0) * 100.0);
}

void WorkerImpl::Tick() {
  const std::shared_ptr<const HeldExperts> held = store_->held();
  metrics_.Gauge("tandem_expert_weight_bytes", "Memory of the experts held, as packed.")
      .Set(static_cast<double>(held->weight_bytes()));
  metrics_.Gauge("tandem_experts_held", "Experts held, over all layers.")
      .Set(static_cast<double>(held->experts().size()));
  metrics_
      .Gauge("tandem_expert_load_fraction", "Share of the running load of experts that is done.")
      .Set(store_->load_fraction());
  const int load = LoadPercent();
  metrics_.Gauge("tandem_expert_busy_fraction", "Share of recent time spent computing.")
      .Set(load / 100.0);
  if (std::abs(load - load_percent_reported_.load()) < kLoadStepPercent) return;
  load_percent_reported_ = load;
  Report();
}

experts::v1::DescribeResponse WorkerImpl::Describe() const {
  experts::v1::DescribeResponse response;
  {
    absl::MutexLock lock(&mutex_);
    response.set_worker_id(worker_id_);
  }
  const std::shared_ptr<const HeldExperts> held = store_->held();
  response.set_model_digest(store_->digest());
  response.set_epoch(loop_->epoch());
  response.set_experts_held(held->experts().size());
  response.set_weight_bytes(static_cast<uint64_t>(held->weight_bytes()));
  response.set_isa(kernels::ActiveTable().isa);
  response.set_version(base::VersionString());
  return response;
}

void WorkerImpl::Drain(absl::Duration grace) {
  {
    absl::MutexLock lock(&mutex_);
    ready_ = absl::UnavailableError("draining");
    state_ = membership::v1::WORKER_STATE_DRAINING;
    server_->SetServing(false);
  }
  SetState(membership::v1::WORKER_STATE_DRAINING);
  const absl::Duration end = base::RealClock().Monotonic() + grace;
  uint64_t calls_seen = loop_->calls_total();
  absl::Duration quiet_since = base::RealClock().Monotonic();
  while (base::RealClock().Monotonic() < end) {
    absl::SleepFor(absl::Milliseconds(20));
    if (loop_->calls_total() != calls_seen || loop_->calls_waiting() > 0) {
      calls_seen = loop_->calls_total();
      quiet_since = base::RealClock().Monotonic();
    }
    if (base::RealClock().Monotonic() - quiet_since > kQuietBeforeEnd) break;
  }
  if (!loop_->Drain(absl::Seconds(10))) {
    base::LogWarning("drain_incomplete", {{"calls_waiting", loop_->calls_waiting()}});
  }
  server_->Shutdown(absl::Seconds(2));
}

}  // namespace

absl::StatusOr<std::unique_ptr<Worker>> Worker::Start(const WorkerOptions& options) {
  auto worker = std::make_unique<WorkerImpl>(options);
  TANDEM_RETURN_IF_ERROR(worker->Open());
  return std::unique_ptr<Worker>(std::move(worker));
}

}  // namespace tandem::cpu_worker
