// BidiStream: the client side of one long-lived gRPC stream on the callback API, with a bounded
// queue of messages to send. Both streams of the project (GPU worker to expert worker, coordinator
// to GPU worker) are one of these. Included by lib/rpc/*.cc only, because of grpcpp.
#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/client_callback.h>

#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "lib/rpc/status_map.h"

namespace tandem::rpc {

template <typename Request, typename Response>
class BidiStream final : public grpc::ClientBidiReactor<Request, Response> {
 public:
  struct Events {
    // Messages in order, one call at a time, on a gRPC thread. Must not block for long: the next
    // message waits.
    std::function<void(Response)> on_message;
    // Exactly once, after the last message: why the stream is over (OK when the peer ended it).
    std::function<void(absl::Status)> on_end;
  };
  // Binds the reactor to a stub's method: stub->async()->Run(context, reactor).
  using Bind =
      std::function<void(grpc::ClientContext*, grpc::ClientBidiReactor<Request, Response>*)>;

  // The stream keeps itself alive until on_end has returned.
  static std::shared_ptr<BidiStream> Open(const Bind& bind, Events events, size_t queue_bytes_max) {
    std::shared_ptr<BidiStream> stream(new BidiStream(std::move(events), queue_bytes_max));
    stream->self_ = stream;
    bind(&stream->context_, stream.get());
    stream->AddHold();  // for writes from outside the reactions; given back when reading ends
    stream->StartRead(&stream->incoming_);
    stream->StartCall();
    return stream;
  }

  enum class WriteOutcome { kQueued, kEnded, kFull };

  // Thread-safe. `message` is moved from only when queued.
  WriteOutcome Write(Request&& message) {
    const size_t message_bytes = message.ByteSizeLong();
    absl::MutexLock lock(&mutex_);
    if (!writable_) return WriteOutcome::kEnded;
    // One message always fits an empty queue, whatever its size.
    if (!queue_.empty() && queue_bytes_ + message_bytes > queue_bytes_max_)
      return WriteOutcome::kFull;
    queue_bytes_ += message_bytes;
    queue_.push_back({std::move(message), message_bytes});
    // Reactions never run inside Start*, so holding the mutex here cannot deadlock.
    if (queue_.size() == 1) this->StartWrite(&queue_.front().message);
    return WriteOutcome::kQueued;
  }

  // Ends the stream soon; on_end follows with CANCELLED.
  void Cancel() { context_.TryCancel(); }

 private:
  struct Queued {
    Request message;
    size_t message_bytes;
  };

  BidiStream(Events events, size_t queue_bytes_max)
      : events_(std::move(events)), queue_bytes_max_(queue_bytes_max) {}

  void OnReadDone(bool ok) override {
    if (!ok) {
      {
        absl::MutexLock lock(&mutex_);
        writable_ = false;
      }
      this->RemoveHold();
      return;
    }
    Response message;
    message.Swap(&incoming_);
    events_.on_message(std::move(message));
    this->StartRead(&incoming_);
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    queue_bytes_ -= queue_.front().message_bytes;
    queue_.pop_front();
    if (!ok) {
      // The read side sees the end as well and finishes the stream.
      writable_ = false;
      queue_.clear();
      queue_bytes_ = 0;
      return;
    }
    if (!queue_.empty() && writable_) this->StartWrite(&queue_.front().message);
  }

  void OnDone(const grpc::Status& status) override {
    events_.on_end(FromGrpc(status));
    events_ = {};  // they may hold whoever holds this stream
    const std::shared_ptr<BidiStream> last_use = std::move(self_);
  }

  grpc::ClientContext context_;
  Events events_;
  const size_t queue_bytes_max_;
  Response incoming_;
  std::shared_ptr<BidiStream> self_;
  absl::Mutex mutex_;
  bool writable_ ABSL_GUARDED_BY(mutex_) = true;
  // The front message is being written. References into a deque survive pushes at its end.
  std::deque<Queued> queue_ ABSL_GUARDED_BY(mutex_);
  size_t queue_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace tandem::rpc
