#include "tools/tandem/up.h"

#include <signal.h>
#include <unistd.h>

#include <cstring>
#include <iostream>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/base/child_process.h"
#include "lib/base/log.h"
#include "lib/base/program.h"
#include "tools/tandem/grpc_client.h"
#include "tools/tandem/local_cluster.h"

namespace tandem::launcher {
namespace {

constexpr char kName[] = "tandem up";
constexpr char kExamples[] =
    "  tandem up --model models/quiz --cpu-workers 2\n"
    "  tandem up --model models/quiz --listen 127.0.0.1:50051 --state-file /tmp/tandem.json "
    "--log-dir /tmp/logs\n"
    "  tandem up --recipe deploy/recipes/mmlu-6.yaml --model models/quiz\n"
    "  tandem up --model models/quiz --cpu-workers 2 -- tandem-eval run --suite quiz\n"
    "Behind -- stands a command that is run with TANDEM_ADDRESS (and TANDEM_HTTP_ADDRESS, "
    "host:port of\n"
    "OpenAI's endpoints) set; its exit code is tandem's.\n"
    "After Ctrl-C the command has 10 s to end by itself before SIGTERM; the exit code is 130 then.";
constexpr absl::Duration kStartInterval = absl::Milliseconds(50);
// Ends of processes wake the launcher; this is for the case that such a wake-up was lost.
constexpr absl::Duration kLookInterval = absl::Seconds(2);
// How long an interrupted command may take to end in its own way.
constexpr absl::Duration kInterruptGrace = absl::Seconds(10);
constexpr double kStopGraceSeconds = 10;

// Progress on a terminal is one line written over; elsewhere one line per change.
class Progress {
 public:
  void Show(const std::string& text) {
    if (text == last_) return;
    last_ = text;
    if (tty_) {
      std::cerr << "\r\033[K" << text << std::flush;
    } else {
      std::cerr << text << std::endl;
    }
  }
  void Clear() {
    if (tty_) std::cerr << "\r\033[K" << std::flush;
  }

 private:
  const bool tty_ = isatty(STDERR_FILENO) != 0;
  std::string last_;
};

// OK when ready; CANCELLED when a stop was asked for.
absl::Status WaitReady(LocalCluster* cluster, absl::Duration wait_max) {
  CoordinatorClient client(cluster->address());
  Progress progress;
  const absl::Time end = absl::Now() + wait_max;
  std::string reason = "starting";
  while (absl::Now() < end) {
    if (base::StopRequested()) return absl::CancelledError("stopped while starting");
    if (absl::Status status = cluster->Look(/*starting=*/true); !status.ok()) {
      progress.Clear();
      return status;
    }
    const absl::StatusOr<inference::v1::ModelInfo> info = client.Info(absl::Milliseconds(200));
    if (info.ok() && info->ready()) {
      progress.Clear();
      return absl::OkStatus();
    }
    reason = info.ok() ? info->not_ready_reason() : "waiting for the coordinator";
    progress.Show(absl::StrCat("tandem: ", reason));
    base::WaitForStop(kStartInterval);
  }
  progress.Clear();
  cluster->KeepLogs();
  return absl::DeadlineExceededError(absl::StrCat("not ready within ",
                                                  absl::FormatDuration(wait_max), ": ", reason,
                                                  " (logs: ", cluster->log_dir(), ")"));
}

void Announce(const UpOptions& options, const LocalCluster& cluster, bool to_stderr) {
  std::ostream& out = to_stderr ? std::cerr : std::cout;
  if (options.json) {
    out << cluster.StateJson() << std::endl;
  } else {
    const std::string http =
        cluster.http_address().empty()
            ? ""
            : absl::StrCat(", OpenAI at http://", cluster.http_address(), "/v1");
    out << "tandem: ready at " << cluster.address() << http << ", logs in " << cluster.log_dir()
        << std::endl;
  }
}

// Until a stop is asked for, or the cluster cannot go on.
int Supervise(LocalCluster* cluster) {
  while (!base::WaitForStopOrChild(cluster->LookWithin(kLookInterval))) {
    if (absl::Status status = cluster->Look(/*starting=*/false); !status.ok()) {
      std::cerr << kName << ": " << status.message() << std::endl;
      return base::kExitFailed;
    }
  }
  return 0;
}

// After a stop. Ctrl-C at a terminal has reached the command as well, so it is left to itself for a
// while; SIGTERM came to the launcher alone and is handed on.
int EndCommand(base::ChildProcess* child) {
  const bool interrupted = base::StopSignal() == SIGINT;
  const absl::Time end = absl::Now() + (interrupted ? kInterruptGrace : absl::ZeroDuration());
  while (child->running() && absl::Now() < end) absl::SleepFor(kStartInterval);
  base::StopAll({child}, kStopGraceSeconds);
  return interrupted ? 128 + SIGINT : *child->Poll();
}

int RunCommand(LocalCluster* cluster, const std::vector<std::string>& command) {
  base::ChildSpec spec;
  spec.name = command[0];
  spec.argv = command;
  spec.own_group = false;
  spec.environment = {{"TANDEM_ADDRESS", cluster->address()},
                      {"TANDEM_HTTP_ADDRESS", cluster->http_address()}};
  absl::StatusOr<base::ChildProcess> child = base::ChildProcess::Start(spec);
  if (!child.ok()) return base::CannotStart(kName, child.status());
  while (child->running()) {
    if (absl::Status status = cluster->Look(/*starting=*/false); !status.ok()) {
      std::cerr << kName << ": " << status.message() << std::endl;
      base::StopAll({&*child}, kStopGraceSeconds);
      return base::kExitFailed;
    }
    if (base::WaitForStopOrChild(cluster->LookWithin(kLookInterval))) return EndCommand(&*child);
  }
  return *child->Poll();
}

int Run(const UpOptions& options, const std::vector<std::string>& command) {
  absl::StatusOr<std::unique_ptr<LocalCluster>> cluster = LocalCluster::Start(options);
  if (!cluster.ok()) return base::CannotStart(kName, cluster.status());
  const absl::Status ready = WaitReady(cluster->get(), absl::Seconds(options.wait_ready_seconds));
  // Whoever waits for a command must not take one that never ran for one that went well.
  if (ready.code() == absl::StatusCode::kCancelled)
    return command.empty() ? 0 : 128 + base::StopSignal();
  if (!ready.ok()) {
    base::CannotStart(kName, ready);
    return ready.code() == absl::StatusCode::kDeadlineExceeded ? base::kExitFailed
                                                               : base::kExitCannotStart;
  }
  (*cluster)->SetReady(true);
  // With a command, stdout is the command's.
  Announce(options, **cluster, /*to_stderr=*/!command.empty());
  return command.empty() ? Supervise(cluster->get()) : RunCommand(cluster->get(), command);
}

}  // namespace

int RunUp(int argc, char** argv) {
  std::vector<std::string> command;
  for (int i = 1; i < argc; ++i) {
    if (std::strcmp(argv[i], "--") != 0) continue;
    command.assign(argv + i + 1, argv + argc);
    argc = i;
  }
  CLI::App app(
      "Starts a coordinator, a GPU worker and CPU workers on this machine and looks after them.",
      kName);
  UpOptions options;
  AddUpOptions(app, &options);
  base::AddStandardOptions(app, kExamples);
  if (const int code = base::ParseOrExitCode(app, argc, argv); code >= 0) return code;
  if (absl::Status status = ApplyRecipe(app, &options); !status.ok())
    return base::CannotStart(kName, status);
  base::InstallStopSignals();
  base::WatchChildren();
  return Run(options, command);
}

}  // namespace tandem::launcher
