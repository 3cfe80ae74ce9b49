// LocalCluster: a whole cluster of real processes on loopback for one test, started with `tandem
// up` as a user would and described by the state file it writes. Stopping it checks that nothing is
// left behind.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace tandem::cluster_test {

struct ClusterOptions {
  std::string model;
  int cpu_workers = 2;
  std::vector<std::string> flags;  // passed on to `tandem up`
  absl::Duration ready_wait = absl::Seconds(120);
};

// <build>/bin/<program>.
std::string ProgramPath(const std::string& program);

// Flags of `tandem up` for --backend cuda where there is no GPU: the GPU worker's own program with
// its CUDA backend on the emulator. A prompt of 60 tokens takes it about two seconds, each further
// step half a second.
std::vector<std::string> EmulatedCuda();

struct ProcessInfo {
  std::string role;  // "coordinator", "gpu_worker" or "cpu_worker"
  std::string name;
  pid_t pid = 0;
  std::string admin_address;
};

class LocalCluster {
 public:
  static absl::StatusOr<LocalCluster> Start(const ClusterOptions& options);

  LocalCluster(LocalCluster&& other) noexcept;
  LocalCluster& operator=(LocalCluster&&) = delete;
  ~LocalCluster();  // SIGKILL to the whole group if Stop was not called

  const std::string& address() const { return address_; }
  const std::string& http_address() const { return http_address_; }  // OpenAI's endpoints
  // The processes as the state file lists them now (a restarted worker has a new pid).
  absl::StatusOr<std::vector<ProcessInfo>> Processes() const;
  // SIGTERM to `tandem up`; its exit code, or DEADLINE_EXCEEDED after 30 s.
  absl::StatusOr<int> Stop();

 private:
  LocalCluster() = default;
  pid_t launcher_pid_ = 0;
  std::string directory_;  // state file and logs; removed at the end
  std::string address_;
  std::string http_address_;
};

// True while `pid` exists and is no zombie.
bool ProcessAlive(pid_t pid);
// Waits until `pid` is gone; false when it is still there after `wait_max`.
bool WaitUntilGone(pid_t pid, absl::Duration wait_max);

// Names of the shared-memory sockets `pid` has open, as /proc/net/unix writes them.
std::vector<std::string> ShmSocketsOf(pid_t pid);
// Whether some process has a socket of this name.
bool SocketExists(const std::string& name);

// The value of a sample on /metrics of the server at `admin_address`, which is named by everything
// before the value, as in `calls_total{kind="a"}`. NOT_FOUND when there is none.
absl::StatusOr<double> MetricOf(const std::string& admin_address, const std::string& sample);

}  // namespace tandem::cluster_test
