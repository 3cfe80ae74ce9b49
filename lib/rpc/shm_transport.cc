// Calls are written into the ring by whoever makes them, and answers taken out by whoever polls. A
// thread of the transport's own sleeps on the socket: it takes answers when nobody polls, ends
// calls whose time is over, and hears at once when the worker is gone.
#include "lib/rpc/shm_transport.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "lib/base/check.h"
#include "lib/base/log.h"
#include "lib/base/status_macros.h"
#include "lib/rpc/pending_calls.h"
#include "lib/rpc/shm_connection.h"
#include "lib/rpc/shm_frame.h"
#include "lib/rpc/shm_socket.h"
#include "lib/rpc/spin_wait.h"

namespace tandem::rpc {
namespace {

// The worker's accepting thread does nothing else; only a machine that is short of processors takes
// longer than a millisecond.
constexpr absl::Duration kGreetingWait = absl::Milliseconds(500);

struct Connection : ShmEnd<RingProducer, RingConsumer> {
  Connection(UniqueFd control_fd, std::unique_ptr<ShmRegion> memory, uint64_t connection_serial)
      : ShmEnd(std::move(control_fd), std::move(memory)), serial(connection_serial) {}

  const uint64_t serial;
};

// The memory of one answer.
struct HeldAnswer {
  HeldAnswer(std::shared_ptr<Connection> from, uint64_t number)
      : connection(std::move(from)), frame_number(number) {}
  ~HeldAnswer() { connection->answers.Release(frame_number); }
  HeldAnswer(const HeldAnswer&) = delete;

  const std::shared_ptr<Connection> connection;
  const uint64_t frame_number;
};

// A call that is over, to be told so without the mutex.
struct Ended {
  Transport::Done done;
  absl::StatusOr<Answer> result;
};

class ShmTransportImpl final : public ShmTransport {
 public:
  explicit ShmTransportImpl(const std::string& address)
      : address_(address), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
    TANDEM_CHECK(wake_.ok());
  }

  ~ShmTransportImpl() override {
    std::vector<PendingCall> left;
    {
      absl::MutexLock lock(&mutex_);
      closed_ = true;
      left = pending_.TakeAll();
      connection_ = nullptr;
    }
    Wake();
    if (sleeper_.joinable()) sleeper_.join();
    for (PendingCall& call : left) {
      call.done(
          absl::CancelledError(absl::StrCat("the connection to ", address_, " was closed here")));
    }
  }

  void Call(const OutgoingCall& call, absl::Duration timeout, Done done) override {
    if (timeout <= absl::ZeroDuration()) return done(TimedOut(timeout));
    absl::Status refused;
    {
      absl::MutexLock lock(&mutex_);
      refused = Enqueue(call, timeout, &done);
    }
    if (!refused.ok()) done(std::move(refused));
  }

  bool CanPoll() override {
    absl::MutexLock lock(&mutex_);
    return connection_ != nullptr;
  }

  void StartPolling() override {
    absl::MutexLock lock(&mutex_);
    if (polling_++ == 0 && connection_ != nullptr) connection_->answers.AnnounceAwake();
  }

  bool Poll() override {
    std::vector<Ended> ended;
    {
      absl::MutexLock lock(&mutex_);
      if (connection_ == nullptr || !connection_->answers.HasNews()) return false;
      TakeAnswers(&ended);
    }
    for (Ended& call : ended) call.done(std::move(call.result));
    return !ended.empty();
  }

  void StopPolling() override {
    std::vector<Ended> ended;
    {
      absl::MutexLock lock(&mutex_);
      TANDEM_CHECK_GT(polling_, 0);
      if (--polling_ == 0) FallAsleep(&ended);
    }
    for (Ended& call : ended) call.done(std::move(call.result));
  }

  const std::string& address() const override { return address_; }

  absl::Status Attach() override {
    absl::MutexLock lock(&mutex_);
    return AttachLocked();
  }

  bool Fits(const OutgoingCall& call) const override {
    return CallFrameBytes(call) <= kCallArenaBytes && AnswerFrameBytesOf(call) <= kAnswerArenaBytes;
  }

 private:
  absl::Status TimedOut(absl::Duration timeout) const {
    return absl::DeadlineExceededError(
        absl::StrCat("no answer from ", address_, " within ", absl::FormatDuration(timeout)));
  }

  absl::Status AttachLocked() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (closed_) return absl::CancelledError("transport closed");
    if (connection_ != nullptr) return absl::OkStatus();
    TANDEM_ASSIGN_OR_RETURN(UniqueFd control, ConnectShm(address_));
    TANDEM_ASSIGN_OR_RETURN(ReceivedHello received, ReceiveHello(control, kGreetingWait));
    if (received.hello.layout_version != kShmLayoutVersion) {
      return absl::UnavailableError(absl::StrCat("shared memory of ", address_,
                                                 ": expected layout ", kShmLayoutVersion,
                                                 ", found ", received.hello.layout_version));
    }
    if (received.hello.address != address_) {
      return absl::UnavailableError(absl::StrCat("shared memory: expected worker ", address_,
                                                 ", found ", received.hello.address));
    }
    TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<ShmRegion> region,
                            ShmRegion::Open(std::move(received.memory), kShmRegionBytes));
    connection_ = std::make_shared<Connection>(std::move(control), std::move(region), ++serial_);
    if (polling_ == 0) connection_->answers.AnnounceSleep();
    if (!sleeper_.joinable()) sleeper_ = std::thread([this] { SleeperMain(); });
    Wake();
    return absl::OkStatus();
  }

  // Takes `done` only when it returns OK.
  absl::Status Enqueue(const OutgoingCall& call, absl::Duration timeout, Done* done)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    TANDEM_RETURN_IF_ERROR(AttachLocked());
    const uint64_t frame_bytes = CallFrameBytes(call);
    if (!Fits(call)) {
      return absl::ResourceExhaustedError(absl::StrCat(
          "a call of ", frame_bytes, " bytes and its answer of up to ", AnswerFrameBytesOf(call),
          " are too large for the shared memory to ", address_));
    }
    std::byte* const frame = connection_->calls.Allocate(frame_bytes);
    if (frame == nullptr) {
      return absl::ResourceExhaustedError(
          absl::StrCat("the shared memory to ", address_, " is full"));
    }
    const uint64_t call_id = next_call_id_++;
    WriteCall(call, call_id,
              static_cast<uint64_t>(std::max<int64_t>(1, absl::ToInt64Milliseconds(timeout))),
              MonotonicNanos(), frame);
    // An answer cannot overtake this line: taking it needs the mutex held here.
    const bool rearm = pending_.Add(
        call_id, {std::move(*done), absl::Now() + timeout, timeout, connection_->serial});
    if (connection_->calls.Publish()) RingBell(connection_->control);
    if (rearm) Wake();
    return absl::OkStatus();
  }

  // Everything that has arrived. A worker that writes nonsense is hung up on.
  void TakeAnswers(std::vector<Ended>* ended) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (connection_ != nullptr && connection_->answers.HasNews()) {
      const absl::StatusOr<std::optional<RingFrame>> frame = connection_->answers.Take();
      absl::Status status = frame.status();
      ReceivedAnswer received;
      if (status.ok()) {
        received.answer.memory = nullptr;
        status = ReadAnswer((*frame)->bytes, &received);
      }
      if (!status.ok()) {
        base::LogWarning("shm_connection_closed",
                         {{"worker", address_}, {"why", status.message()}});
        return Lose(status, ended);
      }
      received.answer.memory = std::make_shared<HeldAnswer>(connection_, (*frame)->number);
      std::optional<PendingCall> call = pending_.Take(received.call_id);
      if (!call.has_value()) continue;  // late; its memory is let go of here
      if (received.status.ok()) {
        ended->push_back({std::move(call->done), std::move(received.answer)});
      } else {
        ended->push_back(
            {std::move(call->done),
             absl::Status(received.status.code(),
                          absl::StrCat(address_, ": ", std::string(received.status.message())))});
      }
    }
  }

  // From now on the sleeper is woken for answers; those that came just before are taken here.
  void FallAsleep(std::vector<Ended>* ended) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (connection_ != nullptr) {
      connection_->answers.AnnounceSleep();
      if (!connection_->answers.HasNews()) return;
      TakeAnswers(ended);
    }
  }

  // The connection is over; its calls end UNAVAILABLE.
  void Lose(const absl::Status& why, std::vector<Ended>* ended)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const absl::Status gone = absl::UnavailableError(
        absl::StrCat("expert worker ", address_, " is gone: ", std::string(why.message())));
    for (PendingCall& call : pending_.TakeOf(connection_->serial)) {
      ended->push_back({std::move(call.done), gone});
    }
    ::shutdown(connection_->control.get(), SHUT_RDWR);
    connection_ = nullptr;
  }

  void Wake() {
    const uint64_t one = 1;
    (void)!::write(wake_.get(), &one, sizeof one);
  }

  void SleeperMain() {
    for (;;) {
      std::shared_ptr<Connection> connection;
      absl::Time wake_at;
      {
        absl::MutexLock lock(&mutex_);
        if (closed_) return;
        connection = connection_;
        wake_at = pending_.wake_at();
      }
      const bool rang = Sleep(connection.get(), wake_at);
      std::vector<Ended> ended;
      {
        absl::MutexLock lock(&mutex_);
        if (closed_) return;
        // Another connection may have come in its place meanwhile.
        if (rang && connection_ == connection) OnBell(&ended);
        for (PendingCall& call : pending_.TakeLate(absl::Now())) {
          ended.push_back({std::move(call.done), TimedOut(call.timeout)});
        }
      }
      for (Ended& call : ended) call.done(std::move(call.result));
    }
  }

  // Until the connection has something, Wake was called, or `wake_at`. True for the first.
  bool Sleep(const Connection* connection, absl::Time wake_at) {
    pollfd fds[2] = {
        {wake_.get(), POLLIN, 0},
        {connection == nullptr ? -1 : connection->control.get(), POLLIN | POLLRDHUP, 0}};
    const absl::Duration wait =
        std::clamp(wake_at - absl::Now(), absl::ZeroDuration(), absl::Hours(24));
    const timespec timeout = absl::ToTimespec(wait);
    if (::ppoll(fds, 2, &timeout, nullptr) <= 0) return false;
    if (fds[0].revents != 0) {
      uint64_t ignored = 0;
      (void)!::read(wake_.get(), &ignored, sizeof ignored);
    }
    return fds[1].revents != 0;
  }

  void OnBell(std::vector<Ended>* ended) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const bool there = SilenceBell(connection_->control);
    // Answers that were written before the worker went are good.
    TakeAnswers(ended);
    if (connection_ == nullptr) return;
    if (!there) return Lose(absl::UnavailableError("it hung up"), ended);
    if (polling_ == 0) FallAsleep(ended);
  }

  const std::string address_;
  const UniqueFd wake_;
  absl::Mutex mutex_;
  std::shared_ptr<Connection> connection_ ABSL_GUARDED_BY(mutex_);
  uint64_t serial_ ABSL_GUARDED_BY(mutex_) = 0;
  PendingCalls pending_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_call_id_ ABSL_GUARDED_BY(mutex_) = 1;
  int polling_ ABSL_GUARDED_BY(mutex_) = 0;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread sleeper_;  // started under the mutex with the first connection
};

}  // namespace

std::unique_ptr<ShmTransport> ShmTransport::Make(const std::string& address) {
  return std::make_unique<ShmTransportImpl>(address);
}

}  // namespace tandem::rpc
