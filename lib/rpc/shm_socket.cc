#include "lib/rpc/shm_socket.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/base/status_macros.h"

namespace tandem::rpc {
namespace {

constexpr char kMagic[8] = {'T', 'N', 'D', 'M', 'S', 'H', 'M', '\n'};
constexpr size_t kAddressBytesMax = 512;

// GPU workers that connect at the same moment.
constexpr int kBacklog = 64;

// The greeting on the wire, followed by the address.
struct WireHello {
  char magic[sizeof kMagic];
  uint32_t layout_version;
  uint32_t address_bytes;
};

struct Name {
  sockaddr_un address = {};
  socklen_t bytes = 0;
};

// A name holds 107 bytes. The end of a long address is kept, where the port is; the greeting holds
// all of it.
Name NameOf(const std::string& worker_address) {
  constexpr size_t kTailMax = 80;
  const std::string tail =
      worker_address.substr(worker_address.size() - std::min(worker_address.size(), kTailMax));
  const std::string text = absl::StrCat("tandem-experts/", tail);
  Name name;
  name.address.sun_family = AF_UNIX;
  // A leading zero byte makes it abstract.
  std::memcpy(name.address.sun_path + 1, text.data(), text.size());
  name.bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
  return name;
}

absl::StatusOr<UniqueFd> MakeSocket() {
  // SEQPACKET keeps the borders of the greeting and is a connection that can break.
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd.ok()) return absl::ErrnoToStatus(errno, "shared memory: socket");
  return fd;
}

absl::Status CheckPeer(const UniqueFd& socket) {
  ucred peer = {};
  socklen_t bytes = sizeof peer;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_PEERCRED, &peer, &bytes) != 0) {
    return absl::ErrnoToStatus(errno, "shared memory: SO_PEERCRED");
  }
  if (peer.uid == ::geteuid()) return absl::OkStatus();
  return absl::PermissionDeniedError(absl::StrCat("shared memory: expected a peer of user ",
                                                  ::geteuid(), ", process ", peer.pid,
                                                  " is of user ", peer.uid));
}

}  // namespace

absl::StatusOr<UniqueFd> ListenForShm(const std::string& address) {
  TANDEM_ASSIGN_OR_RETURN(UniqueFd fd, MakeSocket());
  const Name name = NameOf(address);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&name.address), name.bytes) != 0 ||
      ::listen(fd.get(), kBacklog) != 0) {
    return absl::ErrnoToStatus(
        errno, absl::StrCat("shared memory: the socket beside ", address, " cannot be opened"));
  }
  return fd;
}

absl::StatusOr<UniqueFd> AcceptShm(const UniqueFd& listener) {
  UniqueFd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (!fd.ok()) {
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED) {
      return absl::NotFoundError("nobody waits");
    }
    return absl::ErrnoToStatus(errno, "shared memory: accept");
  }
  TANDEM_RETURN_IF_ERROR(CheckPeer(fd));
  return fd;
}

absl::StatusOr<UniqueFd> ConnectShm(const std::string& address) {
  TANDEM_ASSIGN_OR_RETURN(UniqueFd fd, MakeSocket());
  const Name name = NameOf(address);
  // A Unix-domain connect does not wait: it is in the listener's backlog at once, or refused.
  if (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&name.address), name.bytes) != 0) {
    return absl::UnavailableError(absl::StrCat("no worker ", address,
                                               " with shared memory on this host (",
                                               std::string(std::strerror(errno)), ")"));
  }
  TANDEM_RETURN_IF_ERROR(CheckPeer(fd));
  return fd;
}

absl::Status SendHello(const UniqueFd& socket, const ShmHello& hello, int memory_fd) {
  WireHello head = {};
  std::memcpy(head.magic, kMagic, sizeof kMagic);
  head.layout_version = hello.layout_version;
  const std::string address = hello.address.substr(0, kAddressBytesMax);
  head.address_bytes = static_cast<uint32_t>(address.size());
  iovec parts[2] = {{&head, sizeof head}, {const_cast<char*>(address.data()), address.size()}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  cmsghdr* const rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(sizeof(int));
  std::memcpy(CMSG_DATA(rights), &memory_fd, sizeof memory_fd);
  if (::sendmsg(socket.get(), &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) {
    return absl::ErrnoToStatus(errno, "shared memory: greeting a peer");
  }
  return absl::OkStatus();
}

namespace {

absl::Status AwaitReadable(const UniqueFd& socket, absl::Duration wait_max) {
  const absl::Time end = absl::Now() + wait_max;
  for (;;) {
    const absl::Duration left = std::max(end - absl::Now(), absl::ZeroDuration());
    pollfd fd = {socket.get(), POLLIN, 0};
    const int ready = ::poll(&fd, 1, static_cast<int>(absl::ToInt64Milliseconds(left)) + 1);
    if (ready > 0) return absl::OkStatus();
    if (ready < 0 && errno != EINTR) return absl::ErrnoToStatus(errno, "shared memory: poll");
    if (absl::Now() >= end) {
      return absl::DeadlineExceededError(
          absl::StrCat("shared memory: no greeting within ", absl::FormatDuration(wait_max)));
    }
  }
}

// Every descriptor of the message is owned at once, wanted or not.
UniqueFd TakeDescriptor(msghdr* message) {
  UniqueFd taken;
  for (cmsghdr* part = CMSG_FIRSTHDR(message); part != nullptr; part = CMSG_NXTHDR(message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof fd);
      taken = UniqueFd(fd);
    }
  }
  return taken;
}

}  // namespace

absl::StatusOr<ReceivedHello> ReceiveHello(const UniqueFd& socket, absl::Duration wait_max) {
  TANDEM_RETURN_IF_ERROR(AwaitReadable(socket, wait_max));
  WireHello head = {};
  char address[kAddressBytesMax];
  iovec parts[2] = {{&head, sizeof head}, {address, sizeof address}};
  alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
  msghdr message = {};
  message.msg_iov = parts;
  message.msg_iovlen = 2;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t bytes = ::recvmsg(socket.get(), &message, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
  if (bytes == 0) return absl::UnavailableError("shared memory: the worker hung up");
  if (bytes < 0) return absl::ErrnoToStatus(errno, "shared memory: greeting");
  ReceivedHello received;
  received.memory = TakeDescriptor(&message);
  const bool whole = static_cast<size_t>(bytes) >= sizeof head &&
                     std::memcmp(head.magic, kMagic, sizeof kMagic) == 0 &&
                     head.address_bytes == static_cast<size_t>(bytes) - sizeof head;
  if (!whole || !received.memory.ok() || (message.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("shared memory: expected a greeting with memory, found ", bytes, " bytes"));
  }
  received.hello.layout_version = head.layout_version;
  received.hello.address.assign(address, head.address_bytes);
  return received;
}

void RingBell(const UniqueFd& socket) {
  const char one = 1;
  (void)!::send(socket.get(), &one, sizeof one, MSG_DONTWAIT | MSG_NOSIGNAL);
}

bool SilenceBell(const UniqueFd& socket) {
  // A peer that rings without end must not keep this thread here.
  constexpr int kReadsMax = 64;
  char ignored[64];
  for (int i = 0; i < kReadsMax; ++i) {
    const ssize_t bytes = ::recv(socket.get(), ignored, sizeof ignored, MSG_DONTWAIT);
    if (bytes == 0) return false;
    if (bytes < 0) return errno == EAGAIN || errno == EINTR;
  }
  return true;
}

}  // namespace tandem::rpc
