// The gRPC implementation of Transport: calls share one stream and are told apart by call_id; a
// timer thread ends those that take too long.
#include <atomic>
#include <optional>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/rpc/bidi_stream.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/pending_calls.h"
#include "lib/rpc/transport.h"
#include "proto/experts.grpc.pb.h"

namespace tandem::rpc {
namespace {

using experts::v1::ExpertRows;
using experts::v1::ExpertSums;
using Stream = BidiStream<ExpertRows, ExpertSums>;

// More calls than any schedule keeps in flight to one worker; beyond it something is wrong and
// memory must not grow.
constexpr size_t kCallsPendingMax = 1024;
// Two of the largest frames (kMessageBytesMax).
constexpr size_t kQueueBytesMax = size_t{512} << 20;

// What a stream's reactions and the transport share; lives until the last of them is gone.
class Link : public std::enable_shared_from_this<Link> {
 public:
  explicit Link(const std::string& address)
      : address_(address), stub_(experts::v1::Experts::NewStub(MakeChannel(address))) {}

  const std::string& address() const { return address_; }

  void Call(const OutgoingCall& call, absl::Duration timeout, Transport::Done done) {
    if (timeout <= absl::ZeroDuration()) return done(TimedOut(timeout));
    ExpertRows rows = ToMessage(call);
    rows.set_deadline_ms(
        static_cast<uint64_t>(std::max<int64_t>(1, absl::ToInt64Milliseconds(timeout))));
    absl::Status refused;
    {
      absl::MutexLock lock(&mutex_);
      refused = Enqueue(std::move(rows), timeout, &done);
    }
    if (!refused.ok()) done(std::move(refused));
  }

  // The timer thread's body: ends calls whose time is over, until Close.
  void WatchDeadlines() {
    mutex_.Lock();
    while (!closed_) {
      std::vector<PendingCall> late = pending_.TakeLate(absl::Now());
      if (!late.empty()) {
        mutex_.Unlock();
        for (PendingCall& call : late) call.done(TimedOut(call.timeout));
        mutex_.Lock();
        continue;
      }
      alarm_.WaitWithDeadline(&mutex_, pending_.wake_at());
    }
    mutex_.Unlock();
  }

  void Close() {
    std::vector<PendingCall> left;
    std::shared_ptr<Stream> stream;
    {
      absl::MutexLock lock(&mutex_);
      closed_ = true;
      left = pending_.TakeAll();
      stream = stream_;
      alarm_.SignalAll();
    }
    if (stream != nullptr) stream->Cancel();
    for (PendingCall& call : left) {
      call.done(
          absl::CancelledError(absl::StrCat("the connection to ", address_, " was closed here")));
    }
    // Reactions may outlive this without harm (they hold the link); waiting only keeps tests and
    // exits tidy.
    absl::MutexLock lock(&mutex_);
    mutex_.AwaitWithTimeout(absl::Condition(this, &Link::NoStreamOpen), absl::Seconds(2));
  }

 private:
  absl::Status TimedOut(absl::Duration timeout) const {
    return absl::DeadlineExceededError(
        absl::StrCat("no answer from ", address_, " within ", absl::FormatDuration(timeout)));
  }

  // Takes `done` only when it returns OK.
  absl::Status Enqueue(ExpertRows rows, absl::Duration timeout, Transport::Done* done)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (closed_) return absl::CancelledError("transport closed");
    if (pending_.size() >= kCallsPendingMax) {
      return absl::ResourceExhaustedError(
          absl::StrCat(kCallsPendingMax, " calls to ", address_, " are waiting already"));
    }
    const uint64_t call_id = next_call_id_++;
    rows.set_call_id(call_id);
    const Stream::WriteOutcome outcome = WriteToStream(std::move(rows));
    if (outcome == Stream::WriteOutcome::kFull) {
      return absl::ResourceExhaustedError(absl::StrCat("send queue to ", address_, " is full"));
    }
    if (outcome == Stream::WriteOutcome::kEnded) return Gone(absl::UnknownError("stream ended"));
    const absl::Time due = absl::Now() + timeout;
    // An answer cannot overtake this line: its reaction needs the mutex held here.
    if (pending_.Add(call_id, {std::move(*done), due, timeout, stream_serial_})) alarm_.Signal();
    return absl::OkStatus();
  }

  // A stream that has just ended is replaced once; a fresh one takes any message.
  Stream::WriteOutcome WriteToStream(ExpertRows&& rows) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (stream_ != nullptr) {
      const Stream::WriteOutcome outcome = stream_->Write(std::move(rows));
      if (outcome != Stream::WriteOutcome::kEnded) return outcome;
    }
    OpenStream();
    return stream_->Write(std::move(rows));
  }

  void OpenStream() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const uint64_t serial = ++stream_serial_;
    ++streams_open_;
    auto self = shared_from_this();
    stream_ = Stream::Open([this](grpc::ClientContext* context,
                                  auto* reactor) { stub_->async()->Run(context, reactor); },
                           {[self](ExpertSums sums) { self->OnAnswer(std::move(sums)); },
                            [self, serial](absl::Status why) { self->OnStreamEnd(serial, why); }},
                           kQueueBytesMax);
  }

  void OnAnswer(ExpertSums sums) {
    std::optional<PendingCall> call;
    {
      absl::MutexLock lock(&mutex_);
      call = pending_.Take(sums.call_id());
    }
    if (call.has_value()) call->done(AnswerOf(std::move(sums), address_));
  }

  absl::Status Gone(const absl::Status& why) const {
    return absl::UnavailableError(absl::StrCat("expert worker ", address_, " is gone: ",
                                               why.ok() ? "it ended the stream" : why.message()));
  }

  void OnStreamEnd(uint64_t serial, const absl::Status& why) {
    std::vector<PendingCall> lost;
    {
      absl::MutexLock lock(&mutex_);
      --streams_open_;
      if (serial == stream_serial_) stream_ = nullptr;
      lost = pending_.TakeOf(serial);
    }
    for (PendingCall& call : lost) call.done(Gone(why));
  }

  bool NoStreamOpen() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return streams_open_ == 0; }

  const std::string address_;
  const std::unique_ptr<experts::v1::Experts::Stub> stub_;
  absl::Mutex mutex_;
  absl::CondVar alarm_;
  std::shared_ptr<Stream> stream_ ABSL_GUARDED_BY(mutex_);
  uint64_t stream_serial_ ABSL_GUARDED_BY(mutex_) = 0;
  int streams_open_ ABSL_GUARDED_BY(mutex_) = 0;
  PendingCalls pending_ ABSL_GUARDED_BY(mutex_);
  uint64_t next_call_id_ ABSL_GUARDED_BY(mutex_) = 1;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
};

class GrpcTransport final : public Transport {
 public:
  explicit GrpcTransport(const std::string& address)
      : link_(std::make_shared<Link>(address)),
        timer_([link = link_] { link->WatchDeadlines(); }) {}

  ~GrpcTransport() override {
    link_->Close();
    timer_.join();
  }

  void Call(const OutgoingCall& call, absl::Duration timeout, Done done) override {
    link_->Call(call, timeout, std::move(done));
  }

  const std::string& address() const override { return link_->address(); }

 private:
  const std::shared_ptr<Link> link_;
  std::thread timer_;
};

}  // namespace

std::unique_ptr<Transport> MakeGrpcTransport(const std::string& address) {
  return std::make_unique<GrpcTransport>(address);
}

}  // namespace tandem::rpc
