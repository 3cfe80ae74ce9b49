#include "cpu_worker/server/expert_service.h"

#include <grpcpp/grpcpp.h>
#include <grpcpp/support/server_callback.h>

#include <deque>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "proto/experts.grpc.pb.h"

namespace tandem::cpu_worker {
namespace {

using experts::v1::ExpertRows;
using experts::v1::ExpertSums;

// Answers a peer may leave unread. A GPU worker has a handful of calls in flight; a peer with this
// many is not reading.
constexpr size_t kUnreadAnswersMax = 1024;

// One stream. It lives until gRPC is done with it and no answer is under way.
class Stream final : public grpc::ServerBidiReactor<ExpertRows, ExpertSums> {
 public:
  static Stream* Open(grpc::CallbackServerContext* context, ComputeLoop* loop) {
    std::shared_ptr<Stream> stream(new Stream(context, loop));
    stream->self_ = stream;
    stream->StartRead(&stream->incoming_);
    return stream.get();
  }

 private:
  Stream(grpc::CallbackServerContext* context, ComputeLoop* loop)
      : context_(context), loop_(loop) {}

  void OnReadDone(bool ok) override {
    if (!ok) {
      absl::MutexLock lock(&mutex_);
      reading_ = false;
      FinishWhenDone();
      return;
    }
    ExpertRows call;
    call.Swap(&incoming_);
    {
      absl::MutexLock lock(&mutex_);
      ++computing_;
    }
    loop_->Submit(std::move(call),
                  [self = self_](ExpertSums sums) { self->Answer(std::move(sums)); });
    StartRead(&incoming_);
  }

  // From the compute thread, or from Submit on the reading thread.
  void Answer(ExpertSums sums) {
    absl::MutexLock lock(&mutex_);
    --computing_;
    if (!broken_ && answers_.size() >= kUnreadAnswersMax) {
      broken_ = true;
      context_->TryCancel();
    }
    if (!broken_ && !finished_) {
      answers_.push_back(std::move(sums));
      // Reactions never run inside Start*, so holding the mutex here cannot deadlock.
      if (answers_.size() == 1) StartWrite(&answers_.front());
    }
    FinishWhenDone();
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    answers_.pop_front();
    if (!ok) broken_ = true;
    if (broken_) {
      answers_.clear();
    } else if (!answers_.empty()) {
      StartWrite(&answers_.front());
    }
    FinishWhenDone();
  }

  void OnCancel() override {
    absl::MutexLock lock(&mutex_);
    broken_ = true;
    FinishWhenDone();
  }

  void OnDone() override { const std::shared_ptr<Stream> last_use = std::move(self_); }

  // Ends the stream once: when the peer has sent everything and has every answer, or when it is
  // gone. The front of `answers_` is being written, so nothing may be left there.
  void FinishWhenDone() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (finished_ || reading_ || !answers_.empty()) return;
    if (computing_ > 0 && !broken_) return;
    finished_ = true;
    Finish(broken_ ? grpc::Status(grpc::StatusCode::CANCELLED, "the stream broke")
                   : grpc::Status::OK);
  }

  grpc::CallbackServerContext* const context_;
  ComputeLoop* const loop_;
  std::shared_ptr<Stream> self_;
  ExpertRows incoming_;
  absl::Mutex mutex_;
  std::deque<ExpertSums> answers_ ABSL_GUARDED_BY(mutex_);
  int64_t computing_ ABSL_GUARDED_BY(mutex_) = 0;
  bool reading_ ABSL_GUARDED_BY(mutex_) = true;
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
};

class ExpertService final : public experts::v1::Experts::CallbackService {
 public:
  explicit ExpertService(const ServiceOptions& options) : options_(options) {}

  grpc::ServerBidiReactor<ExpertRows, ExpertSums>* Run(
      grpc::CallbackServerContext* context) override {
    return Stream::Open(context, options_.loop);
  }

  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context,
                                     const experts::v1::DescribeRequest*,
                                     experts::v1::DescribeResponse* response) override {
    *response = options_.describe();
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  const ServiceOptions options_;
};

}  // namespace

std::shared_ptr<grpc::Service> MakeExpertService(const ServiceOptions& options) {
  return std::make_shared<ExpertService>(options);
}

}  // namespace tandem::cpu_worker
