#include "eval_client/sandbox/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "lib/base/clock.h"
#include "lib/base/status_macros.h"

extern char** environ;

namespace tandem::eval {
namespace {

// How often an ended child is noticed that has closed its output.
constexpr int kPollMs = 20;

class SpawnSetting {
 public:
  SpawnSetting(const ChildOrders& orders, int output_fd) {
    posix_spawn_file_actions_init(&actions);
    posix_spawnattr_init(&attributes);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, output_fd, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, output_fd, STDERR_FILENO);
    int next = STDERR_FILENO + 1;
    for (const int descriptor : orders.descriptors) {
      posix_spawn_file_actions_adddup2(&actions, descriptor, next++);
    }
    posix_spawn_file_actions_addclosefrom_np(&actions, next);
    // Signals the parent blocks or ignores are its own affair.
    sigset_t none, all;
    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawnattr_setpgroup(&attributes, 0);
    posix_spawnattr_setflags(
        &attributes, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  }
  SpawnSetting(const SpawnSetting&) = delete;
  SpawnSetting& operator=(const SpawnSetting&) = delete;
  ~SpawnSetting() {
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
  }

  posix_spawn_file_actions_t actions;
  posix_spawnattr_t attributes;
};

absl::StatusOr<pid_t> Spawn(const ChildOrders& orders, int output_fd) {
  const SpawnSetting setting(orders, output_fd);
  std::vector<char*> argv;
  for (const std::string& argument : orders.arguments) {
    argv.push_back(const_cast<char*>(argument.c_str()));
  }
  argv.push_back(nullptr);
  pid_t pid = -1;
  const int error =
      posix_spawnp(&pid, argv[0], &setting.actions, &setting.attributes, argv.data(), environ);
  if (error != 0) return absl::ErrnoToStatus(error, absl::StrCat("cannot start ", argv[0]));
  return pid;
}

int ExitCode(int status) {
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

void Kill(pid_t pid) {
  kill(-pid, SIGKILL);
  kill(pid, SIGKILL);
}

}  // namespace

absl::StatusOr<ChildResult> RunChild(const ChildOrders& orders) {
  TANDEM_ASSIGN_OR_RETURN(Pipe output, MakePipe());
  TANDEM_ASSIGN_OR_RETURN(const pid_t pid, Spawn(orders, output.write_end.get()));
  output.write_end.Close();
  ChildResult result;
  const absl::Duration end = base::RealClock().Monotonic() + orders.deadline;
  int status = 0;
  while (waitpid(pid, &status, WNOHANG) == 0) {
    pollfd ready = {.fd = output.read_end.get(), .events = POLLIN, .revents = 0};
    poll(&ready, 1, kPollMs);
    result.output += ReadAvailable(output.read_end, orders.output_bytes_max + 1);
    result.too_much_output = result.output.size() > orders.output_bytes_max;
    result.timed_out = base::RealClock().Monotonic() >= end;
    if (!result.too_much_output && !result.timed_out) {
      // Without a writer left, poll returns at once for ever.
      if ((ready.revents & POLLHUP) != 0) usleep(kPollMs * 1000);
      continue;
    }
    Kill(pid);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    break;
  }
  result.exit_code = ExitCode(status);
  result.output += ReadAvailable(output.read_end, orders.output_bytes_max + 1);
  if (result.output.size() > orders.output_bytes_max) {
    result.too_much_output = true;
    result.output.resize(orders.output_bytes_max);
  }
  return result;
}

}  // namespace tandem::eval
