#include "tools/tandem/local_cluster.h"

#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/base/log.h"
#include "lib/base/program.h"
#include "lib/base/status_macros.h"
#include "lib/base/text_file.h"
#include "lib/rpc/address.h"
#include "nlohmann/json.hpp"

namespace tandem::launcher {
namespace {

namespace fs = std::filesystem;

constexpr double kStopGraceSeconds = 10;
constexpr absl::Duration kBackoffMin = absl::Milliseconds(200);
constexpr absl::Duration kBackoffMax = absl::Seconds(10);
// A worker that ran so long is healthy; its next death starts the backoff anew.
constexpr absl::Duration kHealthy = absl::Seconds(60);

std::string LoopbackAddress(int port) { return absl::StrCat("127.0.0.1:", port); }

}  // namespace

absl::StatusOr<std::unique_ptr<LocalCluster>> LocalCluster::Start(const UpOptions& options) {
  std::unique_ptr<LocalCluster> cluster(new LocalCluster(options));
  TANDEM_RETURN_IF_ERROR(cluster->MakeLogDir());
  TANDEM_RETURN_IF_ERROR(cluster->StartAll());
  return cluster;
}

LocalCluster::~LocalCluster() {
  Stop();
  if (!options_.state_file.empty()) {
    std::error_code ignored;
    fs::remove(options_.state_file, ignored);
  }
  if (own_log_dir_ && !keep_logs_) {
    std::error_code ignored;  // a log that stays behind harms nobody
    fs::remove_all(log_dir_, ignored);
  }
}

absl::Status LocalCluster::MakeLogDir() {
  if (options_.log_dir.empty()) {
    std::string pattern = fs::temp_directory_path() / "tandem-up-XXXXXX";
    if (mkdtemp(pattern.data()) == nullptr)
      return absl::FailedPreconditionError(absl::StrCat("cannot make ", pattern));
    log_dir_ = pattern;
    own_log_dir_ = true;
    return absl::OkStatus();
  }
  std::error_code error;
  fs::create_directories(options_.log_dir, error);
  if (error)
    return absl::FailedPreconditionError(
        absl::StrCat("cannot make ", options_.log_dir, ": ", error.message()));
  log_dir_ = options_.log_dir;
  return absl::OkStatus();
}

absl::Status LocalCluster::StartAll() {
  TANDEM_ASSIGN_OR_RETURN(rpc::HostPort listen, rpc::ParseHostPort(options_.listen));
  const int processes = 2 + options_.cpu_workers;
  TANDEM_ASSIGN_OR_RETURN(const std::vector<int> ports, base::FreePorts(2 * processes + 1));
  // Workers need to know the port before the coordinator has told it.
  if (listen.port == 0) listen.port = static_cast<uint16_t>(ports[0]);
  address_ = rpc::FormatHostPort(listen);
  if (options_.http_listen != "none") {
    TANDEM_ASSIGN_OR_RETURN(rpc::HostPort http, rpc::ParseHostPort(options_.http_listen));
    if (http.port == 0) http.port = static_cast<uint16_t>(ports.back());
    http_address_ = rpc::FormatHostPort(http);
  }
  const auto add = [&](const std::string& role, const std::string& name) {
    Process process;
    process.role = role;
    process.name = name;
    const size_t i = processes_.size();
    process.own = {LoopbackAddress(ports[2 * i]), LoopbackAddress(ports[2 * i + 1])};
    process.log = absl::StrCat(log_dir_, "/", name, ".log");
    processes_.push_back(std::move(process));
  };
  add("coordinator", "coordinator");
  processes_[0].own.listen = address_;
  processes_[0].own.http = http_address_.empty() ? "none" : http_address_;
  add("gpu_worker", "gpu-0");
  for (int i = 0; i < options_.cpu_workers; ++i) add("cpu_worker", absl::StrCat("cpu-", i));
  for (Process& process : processes_) TANDEM_RETURN_IF_ERROR(StartProcess(&process));
  WriteState();
  return absl::OkStatus();
}

base::ChildSpec LocalCluster::SpecOf(const Process& process) const {
  base::ChildSpec spec;
  spec.name = process.name;
  spec.log_path = process.log;
  std::string program = absl::StrCat(base::OwnFolder(), "/");
  std::vector<std::string> args;
  if (process.role == "coordinator") {
    program += "tandem-coordinator";
    args = CoordinatorArgs(options_, process.own);
  } else if (process.role == "gpu_worker") {
    program += "tandem-gpu-worker";
    if (!options_.gpu_worker_program.empty()) program = options_.gpu_worker_program;
    args = GpuWorkerArgs(options_, address_, process.own);
  } else {
    program += "tandem-cpu-worker";
    args = CpuWorkerArgs(options_, address_, process.own);
  }
  spec.argv = {program};
  spec.argv.insert(spec.argv.end(), args.begin(), args.end());
  return spec;
}

absl::Status LocalCluster::StartProcess(Process* process) {
  TANDEM_ASSIGN_OR_RETURN(base::ChildProcess child, base::ChildProcess::Start(SpecOf(*process)));
  process->child = std::make_unique<base::ChildProcess>(std::move(child));
  process->started = absl::Now();
  process->restart_at = absl::InfinitePast();
  return absl::OkStatus();
}

absl::Status LocalCluster::Look(bool starting) {
  for (Process& process : processes_) {
    if (process.child->running() || process.given_up) continue;
    const int code = *process.child->Poll();
    if (starting || process.role == "coordinator") {
      keep_logs_ = true;
      const std::string last = base::LastLine(process.log);
      return absl::FailedPreconditionError(absl::StrCat(process.name, " ended with exit code ",
                                                        code, last.empty() ? "" : ": ", last,
                                                        " (log: ", process.log, ")"));
    }
    Revive(&process);
  }
  return absl::OkStatus();
}

absl::Duration LocalCluster::LookWithin(absl::Duration most) const {
  for (const Process& process : processes_) {
    if (process.restart_at == absl::InfinitePast() || process.given_up) continue;
    most = std::min(most, std::max(process.restart_at - absl::Now(), absl::ZeroDuration()));
  }
  return most;
}

void LocalCluster::Revive(Process* process) {
  const absl::Time now = absl::Now();
  if (process->restart_at == absl::InfinitePast()) {
    const bool was_healthy = now - process->started > kHealthy;
    process->backoff = was_healthy || process->restarts == 0
                           ? kBackoffMin
                           : std::min(process->backoff * 2, kBackoffMax);
    process->restart_at = now + process->backoff;
    process->given_up = options_.no_restart;
    keep_logs_ = true;
    base::LogWarning(
        "process_died",
        {{"name", process->name},
         {"exit_code", *process->child->Poll()},
         {"restart", process->given_up ? "never" : absl::FormatDuration(process->backoff)},
         {"log", process->log}});
    WriteState();
  }
  if (process->given_up || now < process->restart_at) return;
  // It could not start, perhaps because somebody has taken its ports meanwhile.
  if (process->child->Poll() == base::kExitCannotStart) {
    if (const absl::StatusOr<std::vector<int>> ports = base::FreePorts(2); ports.ok()) {
      process->own = {LoopbackAddress((*ports)[0]), LoopbackAddress((*ports)[1])};
    }
  }
  const absl::Status status = StartProcess(process);
  if (!status.ok()) {
    base::LogError("restart_failed", {{"name", process->name}, {"reason", status.ToString()}});
    process->restart_at = now + kBackoffMax;
    return;
  }
  ++process->restarts;
  base::LogInfo("process_restarted", {{"name", process->name}, {"pid", process->child->pid()}});
  WriteState();
}

void LocalCluster::SetReady(bool ready) {
  ready_ = ready;
  WriteState();
}

std::string LocalCluster::StateJson() const {
  nlohmann::ordered_json state = {{"ready", ready_},
                                  {"address", address_},
                                  {"http_address", http_address_},
                                  {"launcher_pid", getpid()},
                                  {"processes", nlohmann::ordered_json::array()}};
  for (const Process& process : processes_) {
    state["processes"].push_back({{"role", process.role},
                                  {"name", process.name},
                                  {"pid", process.child->pid()},
                                  {"listen", process.own.listen},
                                  {"admin", process.own.admin},
                                  {"log", process.log},
                                  {"restarts", process.restarts}});
  }
  return state.dump();
}

// Whole or not at all: readers must never see half a file.
void LocalCluster::WriteState() const {
  if (options_.state_file.empty()) return;
  const absl::Status status = base::ReplaceFile(options_.state_file, StateJson() + "\n");
  if (!status.ok()) base::LogError("state_file_not_written", {{"status", status.ToString()}});
}

void LocalCluster::Stop() {
  std::vector<base::ChildProcess*> coordinator, workers;
  for (Process& process : processes_) {
    if (process.child == nullptr) continue;
    (process.role == "coordinator" ? coordinator : workers).push_back(process.child.get());
  }
  base::StopAll(coordinator, kStopGraceSeconds);
  base::StopAll(workers, kStopGraceSeconds);
}

}  // namespace tandem::launcher
