// LocalCluster: a coordinator, a GPU worker and CPU workers as child processes of this one:
// started, watched, restarted, stopped.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lib/base/child_process.h"
#include "tools/tandem/up_options.h"

namespace tandem::launcher {

class LocalCluster {
 public:
  // Starts all programs. FAILED_PRECONDITION or NOT_FOUND when one cannot be executed; what runs by
  // then is stopped again.
  static absl::StatusOr<std::unique_ptr<LocalCluster>> Start(const UpOptions& options);
  // Stops what still runs. Removes its own log folder unless something failed.
  ~LocalCluster();

  const std::string& address() const { return address_; }
  // Of OpenAI's endpoints, host:port; empty: none.
  const std::string& http_address() const { return http_address_; }
  const std::string& log_dir() const { return log_dir_; }

  // Looks after the processes once: restarts workers that died (not while `starting`).
  // FAILED_PRECONDITION when the cluster cannot go on: the coordinator is gone or, while starting,
  // any process; the message holds the last line it wrote.
  absl::Status Look(bool starting);

  // How long the next Look may wait: `most`, or less when a process is to be restarted before.
  absl::Duration LookWithin(absl::Duration most) const;

  // Tells the state file, from now on with `ready`.
  void SetReady(bool ready);
  // {"ready", "address", "http_address", "processes": [{"role", "name", "pid", "listen", "admin",
  // "log", "restarts"}]}
  std::string StateJson() const;
  // SIGTERM, ten seconds, SIGKILL. The coordinator first, so that it lets running requests finish
  // on its workers.
  void Stop();
  void KeepLogs() { keep_logs_ = true; }

 private:
  struct Process {
    std::string role;  // "coordinator", "gpu_worker", "cpu_worker"
    std::string name;  // "cpu-0"; also that of its log file
    Addresses own;     // kept over restarts, so that the coordinator knows who replaces whom
    std::string log;
    std::unique_ptr<base::ChildProcess> child;
    int restarts = 0;
    absl::Time started;
    absl::Time restart_at = absl::InfinitePast();  // set when it has ended
    absl::Duration backoff;
    bool given_up = false;
  };

  explicit LocalCluster(const UpOptions& options) : options_(options) {}

  absl::Status MakeLogDir();
  absl::Status StartAll();
  absl::Status StartProcess(Process* process);
  base::ChildSpec SpecOf(const Process& process) const;
  void Revive(Process* process);
  void WriteState() const;

  const UpOptions options_;
  std::string address_;
  std::string http_address_;
  std::string log_dir_;
  bool own_log_dir_ = false;
  bool keep_logs_ = false;
  bool ready_ = false;
  std::vector<Process> processes_;  // the coordinator first
};

}  // namespace tandem::launcher
