// Sandbox: runs Python that a model wrote, which may do anything, so that it can do nothing but
// compute. Bubblewrap gives it new user, process, network, mount, IPC, UTS and cgroup namespaces
// with a read-only root that holds the interpreter and its library alone; the guard (guard.cc) adds
// resource limits, a system call filter and the proof that a program ran to its end.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "eval_client/sandbox/file_descriptor.h"

namespace tandem::eval {

struct SandboxLimits {
  absl::Duration wall = absl::Seconds(20);
  // What HumanEval's own script gives, there by the clock on the wall; processor time does not
  // depend on what else the machine does.
  uint64_t cpu_s = 3;
  uint64_t address_bytes = uint64_t{1} << 30;
  uint64_t file_bytes = uint64_t{1} << 20;
  uint64_t temporary_bytes = uint64_t{8} << 20;  // all files under /tmp together
  uint64_t open_files = 32;
  size_t output_bytes = size_t{64} << 10;
};

enum class SandboxEnd {
  kFinished,       // ran to its end without an exception
  kRaised,         // an exception nobody caught
  kLeftEarly,      // ended the process itself: sys.exit, os._exit
  kTimedOut,       // wall-clock or CPU time
  kOutOfMemory,    // MemoryError
  kOutputTooLong,  //
  kKilled,         // by a signal, for example after overrunning the stack
};

struct SandboxResult {
  SandboxEnd end = SandboxEnd::kLeftEarly;
  std::string output;  // stdout and stderr, at most output_bytes
  // One line for people: "passed", "failed: AssertionError", "timeout", ...
  std::string Verdict() const;
};

class Sandbox {
 public:
  // Also runs programs that try to get out, and must fail. FAILED_PRECONDITION, in one sentence,
  // where bubblewrap or Python is missing, where the kernel or its administrator forbids user
  // namespaces, or where anything of the containment does not hold.
  static absl::StatusOr<std::unique_ptr<Sandbox>> Create(const SandboxLimits& limits = {});

  // Runs a whole program. An error is the sandbox's, never the program's. Thread-safe; as many
  // programs run at a time as there are cores, further callers wait.
  absl::StatusOr<SandboxResult> Run(const std::string& program);

 private:
  explicit Sandbox(const SandboxLimits& limits);
  absl::Status Probe();
  absl::StatusOr<SandboxResult> RunNow(const std::string& program);

  const SandboxLimits limits_;
  std::vector<std::string> command_;  // everything but the interpreter's arguments
  absl::Mutex mutex_;
  int free_slots_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tandem::eval
