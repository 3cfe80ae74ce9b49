// SIGINT and SIGTERM become a flag and a readable descriptor, so that a program can stop in order;
// see program.h.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>

#include "absl/time/clock.h"
#include "lib/base/check.h"
#include "lib/base/program.h"

namespace tandem::base {
namespace {

std::atomic<int> stops_seen{0};
std::atomic<int> stop_fd{-1};

// Only async-signal-safe calls: atomics without locks, write, _exit.
void OnStopSignal(int signal_number) {
  if (stops_seen.fetch_add(1) > 0) _exit(128 + signal_number);
  const int saved_errno = errno;
  const uint64_t one = 1;
  // The counter cannot overflow and the descriptor is non-blocking, so there is nothing to handle.
  [[maybe_unused]] const ssize_t written = write(stop_fd.load(), &one, sizeof one);
  errno = saved_errno;
}

}  // namespace

void InstallStopSignals() {
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  TANDEM_CHECK_GE(fd, 0);
  stop_fd.store(fd);
  struct sigaction action = {};
  action.sa_handler = OnStopSignal;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART;
  TANDEM_CHECK_EQ(sigaction(SIGINT, &action, nullptr), 0);
  TANDEM_CHECK_EQ(sigaction(SIGTERM, &action, nullptr), 0);
  struct sigaction ignore = {};
  ignore.sa_handler = SIG_IGN;
  TANDEM_CHECK_EQ(sigaction(SIGPIPE, &ignore, nullptr), 0);
}

bool StopRequested() { return stops_seen.load() > 0; }

bool WaitForStop(absl::Duration wait_max) {
  const absl::Time end = absl::Now() + wait_max;
  while (!StopRequested()) {
    const absl::Duration left = end - absl::Now();
    if (left <= absl::ZeroDuration()) break;
    // One hour at most per poll, so that an infinite wait fits an int.
    const auto wait_ms = absl::ToInt64Milliseconds(std::min(left, absl::Hours(1))) + 1;
    pollfd waiter = {stop_fd.load(), POLLIN, 0};
    poll(&waiter, 1, static_cast<int>(wait_ms));
  }
  return StopRequested();
}

}  // namespace tandem::base
