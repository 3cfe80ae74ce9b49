#include "lib/rpc/shm_server.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"
#include "lib/rpc/shm_connection.h"
#include "lib/rpc/shm_frame.h"
#include "lib/rpc/shm_socket.h"
#include "lib/rpc/spin_wait.h"

namespace tandem::rpc {
namespace {

// When accepting fails (no descriptors left), the next try waits so long.
constexpr absl::Duration kAcceptPause = absl::Milliseconds(200);

}  // namespace

// Lives until it is closed and the last call taken from it is answered. Everything but the
// constructor is for the polling thread.
struct ShmServer::Connection : ShmEnd<RingConsumer, RingProducer> {
  Connection(UniqueFd control_fd, std::unique_ptr<ShmRegion> memory, uint64_t number)
      : ShmEnd(std::move(control_fd), std::move(memory)), tag(number) {}

  const uint64_t tag;
  bool closed = false;

  void Publish() {
    if (answers.Publish()) RingBell(control);
  }
};

namespace {

// A call with the frame it lies in.
template <typename Connection>
struct Held {
  Held(std::shared_ptr<Connection> from, uint64_t number)
      : connection(std::move(from)), frame_number(number) {}
  ~Held() { connection->calls.Release(frame_number); }
  Held(const Held&) = delete;

  const std::shared_ptr<Connection> connection;
  const uint64_t frame_number;
  ReceivedCall received;
  // Between `space` and `send`.
  AnswerLayout layout;
  std::byte* answer = nullptr;
};

template <typename Connection>
ReplySpace MakeSpace(Held<Connection>& held, tensor::v1::WireDType dtype, uint32_t rows,
                     uint32_t cols, uint32_t flags) {
  held.layout = LayoutOfAnswer(dtype, rows, cols, flags);
  held.answer = held.connection->answers.Allocate(held.layout.frame_bytes);
  if (held.answer == nullptr) return {};
  std::memset(held.answer + held.layout.flags_offset_bytes, 0,
              held.layout.frame_bytes - held.layout.flags_offset_bytes);
  return {held.answer + held.layout.sums_offset_bytes,
          reinterpret_cast<uint8_t*>(held.answer + held.layout.flags_offset_bytes)};
}

}  // namespace

absl::StatusOr<std::unique_ptr<ShmServer>> ShmServer::Start(const Options& options,
                                                            std::shared_ptr<WakeSet> wake) {
  std::unique_ptr<ShmServer> server(new ShmServer(options, std::move(wake)));
  TANDEM_ASSIGN_OR_RETURN(server->listener_, ListenForShm(options.address));
  server->stop_ = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!server->stop_.ok()) return absl::ErrnoToStatus(errno, "eventfd");
  server->acceptor_ = std::thread([server = server.get()] { server->AcceptMain(); });
  return server;
}

ShmServer::~ShmServer() {
  if (acceptor_.joinable()) {
    const uint64_t one = 1;
    (void)!::write(stop_.get(), &one, sizeof one);
    acceptor_.join();
  }
  Refresh();
  while (!connections_.empty()) Close(connections_.back(), "");
}

void ShmServer::AcceptMain() {
  for (;;) {
    pollfd fds[2] = {{listener_.get(), POLLIN, 0}, {stop_.get(), POLLIN, 0}};
    if (::poll(fds, 2, -1) < 0 && errno != EINTR) absl::SleepFor(kAcceptPause);
    if ((fds[1].revents & POLLIN) != 0) return;
    if ((fds[0].revents & POLLIN) != 0) AcceptOne();
  }
}

void ShmServer::AcceptOne() {
  absl::StatusOr<UniqueFd> control = AcceptShm(listener_);
  if (absl::IsNotFound(control.status())) return;
  absl::Status status = control.status();
  std::shared_ptr<Connection> connection;
  if (status.ok()) {
    absl::MutexLock lock(&mutex_);
    if (open_ >= options_.connections_max) {
      status = absl::ResourceExhaustedError(
          absl::StrCat(options_.connections_max, " callers are connected already"));
    }
  }
  if (status.ok()) {
    absl::StatusOr<std::unique_ptr<ShmRegion>> region = ShmRegion::Create(kShmRegionBytes);
    status = region.status();
    if (status.ok()) {
      connection =
          std::make_shared<Connection>(*std::move(control), *std::move(region), next_tag_++);
      // From the first moment: the polling thread may be asleep.
      connection->calls.AnnounceSleep();
      status = SendHello(connection->control, {kShmLayoutVersion, options_.address},
                         connection->region->fd());
    }
  }
  if (status.ok()) status = wake_->Add(connection->control.get(), connection->tag);
  if (!status.ok()) {
    base::LogWarning("shm_caller_refused", {{"why", status.ToString()}});
    if (control.status().ok() || absl::IsPermissionDenied(control.status())) return;
    absl::SleepFor(kAcceptPause);
    return;
  }
  {
    absl::MutexLock lock(&mutex_);
    joined_.push_back(std::move(connection));
    ++open_;
  }
  has_joined_.store(true);
  wake_->Notify();
}

void ShmServer::Refresh() {
  if (!has_joined_.load(std::memory_order_relaxed)) return;
  absl::MutexLock lock(&mutex_);
  has_joined_.store(false);
  for (std::shared_ptr<Connection>& connection : joined_) {
    if (!asleep_) connection->calls.AnnounceAwake();
    connections_.push_back(std::move(connection));
  }
  joined_.clear();
}

size_t ShmServer::Poll(size_t calls_max, const std::function<void(ShmCall)>& on_call) {
  Refresh();
  size_t taken = 0;
  // By index: a connection that is closed on the way leaves the list.
  for (size_t i = 0; i < connections_.size(); ++i) {
    const std::shared_ptr<Connection>& connection = connections_[i];
    while (taken < calls_max && connection->calls.HasNews()) {
      const std::shared_ptr<Connection> alive = connection;
      if (!TakeOne(alive, on_call)) {
        --i;
        break;
      }
      ++taken;
    }
  }
  return taken;
}

// False when the connection had to be closed.
bool ShmServer::TakeOne(const std::shared_ptr<Connection>& connection,
                        const std::function<void(ShmCall)>& on_call) {
  const absl::StatusOr<std::optional<RingFrame>> frame = connection->calls.Take();
  if (!frame.ok()) {
    Close(connection, std::string(frame.status().message()));
    return false;
  }
  auto held = std::make_shared<Held<Connection>>(connection, (*frame)->number);
  if (const absl::Status status = ReadCall((*frame)->bytes, &held->received); !status.ok()) {
    Close(connection, std::string(status.message()));
    return false;
  }
  ShmCall call;
  call.call = &held->received.call;
  call.sent_ns = std::min(held->received.sent_ns, MonotonicNanos());
  call.reply.space = [held](tensor::v1::WireDType dtype, uint32_t rows, uint32_t cols,
                            uint32_t flags) { return MakeSpace(*held, dtype, rows, cols, flags); };
  call.reply.send = [this, held](const ReplyHead& head) {
    const uint64_t call_id = held->received.call.call_id;
    Connection& to = *held->connection;
    if (held->answer != nullptr) {
      WriteAnswerHead(held->layout, head, call_id, held->answer);
      return to.Publish();
    }
    if (to.closed) return;
    std::byte* const refusal = to.answers.Allocate(RefusalFrameBytes(head));
    if (refusal == nullptr) return Close(held->connection, "it does not read its answers");
    WriteRefusal(head, call_id, refusal);
    to.Publish();
  };
  call.memory = std::move(held);
  on_call(std::move(call));
  return true;
}

void ShmServer::Close(const std::shared_ptr<Connection>& connection, const std::string& why) {
  const std::shared_ptr<Connection> alive = connection;  // the caller's may lie in the list
  if (alive->closed) return;
  alive->closed = true;
  if (!why.empty()) {
    base::LogWarning("shm_connection_closed", {{"connection", alive->tag}, {"why", why}});
  }
  wake_->Remove(alive->control.get());
  ::shutdown(alive->control.get(), SHUT_RDWR);
  connections_.erase(std::find(connections_.begin(), connections_.end(), alive));
  absl::MutexLock lock(&mutex_);
  --open_;
}

bool ShmServer::AnnounceSleep() {
  Refresh();
  asleep_ = true;
  bool news = false;
  for (const std::shared_ptr<Connection>& connection : connections_) {
    connection->calls.AnnounceSleep();
    news |= connection->calls.HasNews();
  }
  return !news && !has_joined_.load();
}

void ShmServer::AnnounceAwake() {
  asleep_ = false;
  for (const std::shared_ptr<Connection>& connection : connections_) {
    connection->calls.AnnounceAwake();
  }
}

void ShmServer::OnEvent(uint64_t tag) {
  Refresh();
  const auto found =
      std::find_if(connections_.begin(), connections_.end(),
                   [tag](const std::shared_ptr<Connection>& c) { return c->tag == tag; });
  if (found == connections_.end() || SilenceBell((*found)->control)) return;
  base::LogInfo("shm_caller_left", {{"connection", tag}});
  Close(*found, "");
}

}  // namespace tandem::rpc
