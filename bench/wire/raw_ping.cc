#include "bench/wire/raw_ping.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <atomic>
#include <cerrno>
#include <cstring>
#include <functional>
#include <new>

#include "lib/base/status_macros.h"
#include "lib/rpc/spin_wait.h"
#include "lib/rpc/unique_fd.h"

namespace tandem::bench {
namespace {

using rpc::UniqueFd;

absl::Status SystemError(const char* what) { return absl::ErrnoToStatus(errno, what); }

bool SendAll(int fd, const char* data, int64_t bytes) {
  while (bytes > 0) {
    const ssize_t sent = ::send(fd, data, static_cast<size_t>(bytes), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    data += sent;
    bytes -= sent;
  }
  return true;
}

bool ReceiveAll(int fd, char* data, int64_t bytes) {
  while (bytes > 0) {
    const ssize_t got = ::recv(fd, data, static_cast<size_t>(bytes), 0);
    if (got <= 0) return false;
    data += got;
    bytes -= got;
  }
  return true;
}

struct SocketPair {
  UniqueFd ours, theirs;
};

absl::StatusOr<SocketPair> UnixPair() {
  int fds[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) {
    return SystemError("socketpair");
  }
  return SocketPair{UniqueFd(fds[0]), UniqueFd(fds[1])};
}

absl::StatusOr<SocketPair> TcpPair() {
  const UniqueFd listener(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address = {};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t bytes = sizeof address;
  auto* const generic = reinterpret_cast<sockaddr*>(&address);
  if (!listener.ok() || ::bind(listener.get(), generic, bytes) != 0 ||
      ::listen(listener.get(), 1) != 0 || ::getsockname(listener.get(), generic, &bytes) != 0) {
    return SystemError("listening on loopback");
  }
  SocketPair pair;
  pair.ours = UniqueFd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (::connect(pair.ours.get(), generic, bytes) != 0) return SystemError("connecting to loopback");
  pair.theirs = UniqueFd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC));
  if (!pair.theirs.ok()) return SystemError("accept");
  const int one = 1;
  for (const UniqueFd* fd : {&pair.ours, &pair.theirs}) {
    ::setsockopt(fd->get(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
  }
  return pair;
}

// Forks a child that runs `serve`, and takes times here; the child is gone when this returns.
std::vector<double> TimeAgainst(const RawPing& ping, const std::function<void()>& serve,
                                const std::function<bool()>& round_trip) {
  const pid_t child = ::fork();
  if (child == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    serve();
    ::_exit(0);
  }
  std::vector<double> micros;
  for (int i = 0; i < ping.rounds; ++i) {
    const int64_t start = rpc::MonotonicNanos();
    if (!round_trip()) break;
    micros.push_back(static_cast<double>(rpc::MonotonicNanos() - start) / 1e3);
  }
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  return micros;
}

std::vector<double> OverSockets(const RawPing& ping, const SocketPair& pair) {
  std::vector<char> there(ping.there_bytes, 1), back(ping.back_bytes, 2);
  return TimeAgainst(
      ping,
      [&] {
        while (ReceiveAll(pair.theirs.get(), there.data(), ping.there_bytes) &&
               SendAll(pair.theirs.get(), back.data(), ping.back_bytes)) {
        }
      },
      [&] {
        return SendAll(pair.ours.get(), there.data(), ping.there_bytes) &&
               ReceiveAll(pair.ours.get(), back.data(), ping.back_bytes);
      });
}

struct Mailbox {
  alignas(64) std::atomic<uint64_t> sent{0};
  alignas(64) std::atomic<uint64_t> answered{0};
};

// Waits for `counter` to become `value`; false after a second, when the peer must be gone.
bool SpinFor(const std::atomic<uint64_t>& counter, uint64_t value) {
  for (int64_t looks = 0;; ++looks) {
    if (counter.load(std::memory_order_acquire) == value) return true;
    __builtin_ia32_pause();
    if (looks > 30'000'000) return false;
  }
}

absl::StatusOr<std::vector<double>> OverSharedMemory(const RawPing& ping) {
  const size_t bytes = 4096 + static_cast<size_t>(ping.there_bytes + ping.back_bytes) + 64;
  void* const memory =
      ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return SystemError("mmap");
  auto* const box = new (memory) Mailbox;
  char* const there = static_cast<char*>(memory) + 4096;
  char* const back = there + (ping.there_bytes + 63) / 64 * 64;
  std::vector<char> own_there(ping.there_bytes, 1), own_back(ping.back_bytes, 2);
  uint64_t turn = 0;
  std::vector<double> micros = TimeAgainst(
      ping,
      [&] {
        for (uint64_t round = 1; SpinFor(box->sent, round); ++round) {
          std::memcpy(own_there.data(), there, own_there.size());
          std::memcpy(back, own_back.data(), own_back.size());
          box->answered.store(round, std::memory_order_release);
        }
      },
      [&] {
        std::memcpy(there, own_there.data(), own_there.size());
        box->sent.store(++turn, std::memory_order_release);
        if (!SpinFor(box->answered, turn)) return false;
        std::memcpy(own_back.data(), back, own_back.size());
        return true;
      });
  ::munmap(memory, bytes);
  return micros;
}

}  // namespace

absl::StatusOr<std::vector<double>> MeasureRawPing(RawWay way, const RawPing& ping) {
  absl::StatusOr<std::vector<double>> micros;
  if (way == RawWay::kShm) {
    micros = OverSharedMemory(ping);
  } else {
    TANDEM_ASSIGN_OR_RETURN(const SocketPair pair, way == RawWay::kTcp ? TcpPair() : UnixPair());
    micros = OverSockets(ping, pair);
  }
  if (micros.ok() && micros->size() != static_cast<size_t>(ping.rounds)) {
    return absl::UnavailableError("the other end of a raw round trip went away");
  }
  return micros;
}

}  // namespace tandem::bench
