// SIGINT and SIGTERM become a flag and a readable descriptor, so that a program can stop in order;
// see program.h.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>

#include "absl/time/clock.h"
#include "lib/base/check.h"
#include "lib/base/program.h"

namespace tandem::base {
namespace {

std::atomic<int> stops_seen{0};
std::atomic<int> stop_signal{0};
std::atomic<int> stop_fd{-1};
std::atomic<int> child_fd{-1};

// Async-signal-safe. The counter cannot overflow and the descriptor is non-blocking, so there is
// nothing to handle.
void Raise(int fd) {
  const int saved_errno = errno;
  const uint64_t one = 1;
  [[maybe_unused]] const ssize_t written = write(fd, &one, sizeof one);
  errno = saved_errno;
}

// Only async-signal-safe calls: atomics without locks, write, _exit.
void OnStopSignal(int signal_number) {
  if (stops_seen.fetch_add(1) > 0) _exit(128 + signal_number);
  stop_signal.store(signal_number);
  Raise(stop_fd.load());
}

void OnChildEnd(int) { Raise(child_fd.load()); }

int NewEvent() {
  const int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  TANDEM_CHECK_GE(fd, 0);
  return fd;
}

// Sleeps until a stop, an event on `other_fd` (-1: none) or the end of `wait_max`. True when there
// was an event.
bool WaitForEvent(int other_fd, absl::Duration wait_max) {
  const absl::Time end = absl::Now() + wait_max;
  while (!StopRequested()) {
    const absl::Duration left = end - absl::Now();
    if (left <= absl::ZeroDuration()) return false;
    // One hour at most per poll, so that an infinite wait fits an int.
    const auto wait_ms = absl::ToInt64Milliseconds(std::min(left, absl::Hours(1))) + 1;
    pollfd waiters[] = {{stop_fd.load(), POLLIN, 0}, {other_fd, POLLIN, 0}};
    if (poll(waiters, 2, static_cast<int>(wait_ms)) > 0 && waiters[1].revents != 0) return true;
  }
  return false;
}

}  // namespace

void InstallStopSignals() {
  stop_fd.store(NewEvent());
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

int StopSignal() { return stop_signal.load(); }

bool WaitForStop(absl::Duration wait_max) {
  WaitForEvent(-1, wait_max);
  return StopRequested();
}

void WatchChildren() {
  child_fd.store(NewEvent());
  struct sigaction action = {};
  action.sa_handler = OnChildEnd;
  sigemptyset(&action.sa_mask);
  action.sa_flags = SA_RESTART | SA_NOCLDSTOP;
  TANDEM_CHECK_EQ(sigaction(SIGCHLD, &action, nullptr), 0);
}

bool WaitForStopOrChild(absl::Duration wait_max) {
  uint64_t ends = 0;
  if (WaitForEvent(child_fd.load(), wait_max)) {
    [[maybe_unused]] const ssize_t taken = read(child_fd.load(), &ends, sizeof ends);
  }
  return StopRequested();
}

}  // namespace tandem::base
