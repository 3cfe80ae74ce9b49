// ChildProcess: one program started by another. It dies with the one that started it, whatever ends
// that, and its end is seen without waiting.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"

namespace tandem::base {

struct ChildSpec {
  std::string name;               // for messages
  std::vector<std::string> argv;  // [0] is the program: a path, or a name looked up in PATH
  std::string log_path;           // stdout and stderr are appended here; empty: the starter's own
  std::string output_path;        // stdout alone replaces this file; empty: as above
  bool own_group = true;          // so that Ctrl-C at the terminal reaches the starter alone
  std::vector<std::pair<std::string, std::string>> environment;  // added to the starter's
};

class ChildProcess {
 public:
  // NOT_FOUND or FAILED_PRECONDITION when the program cannot be executed, with the reason. Call on
  // the main thread only: the child is told to die with the thread that started it.
  static absl::StatusOr<ChildProcess> Start(const ChildSpec& spec);

  pid_t pid() const { return pid_; }
  // The exit code (128 + N when signal N ended it) once it has ended, again and again; nothing
  // while it runs.
  std::optional<int> Poll();
  bool running() { return !Poll().has_value(); }
  void Signal(int signal_number);

 private:
  explicit ChildProcess(pid_t pid) : pid_(pid) {}
  pid_t pid_;
  std::optional<int> exit_code_;
};

// SIGTERM to all that run, SIGKILL after `grace_seconds`; returns when all have ended.
void StopAll(const std::vector<ChildProcess*>& children, double grace_seconds);

// The folder of the running executable.
std::string OwnFolder();

// A TCP port of 127.0.0.1 that nobody used a moment ago. Different ports in one call.
absl::StatusOr<std::vector<int>> FreePorts(int count);

}  // namespace tandem::base
