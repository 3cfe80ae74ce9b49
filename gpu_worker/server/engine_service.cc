#include "gpu_worker/server/engine_service.h"

#include <deque>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "lib/base/log.h"
#include "lib/rpc/status_map.h"
#include "proto/engine.grpc.pb.h"

namespace tandem::gpu_worker {
namespace {

using engine::v1::DescribeRequest;
using engine::v1::DescribeResponse;
using engine::v1::StepPlan;
using engine::v1::StepResult;

// One stream of plans. Lives until gRPC says that it is done; results that come later find only a
// weak pointer.
class Session final : public grpc::ServerBidiReactor<StepPlan, StepResult>,
                      public std::enable_shared_from_this<Session> {
 public:
  static std::shared_ptr<Session> Open(EngineRunner& runner) {
    auto session = std::make_shared<Session>(runner);
    session->self_ = session;
    session->StartRead(&session->incoming_);
    return session;
  }

  explicit Session(EngineRunner& runner) : runner_(runner), stream_(runner.OpenStream()) {}

  // Ends the stream with `why`, once writes under way are done. Thread-safe.
  void End(const absl::Status& why) {
    absl::MutexLock lock(&mutex_);
    if (ending_) return;
    ending_ = true;
    why_ = why;
    FinishIfQuiet();
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return EndWhenAnswered();
    {
      absl::MutexLock lock(&mutex_);
      ++unanswered_;
    }
    StepPlan plan;
    plan.Swap(&incoming_);
    const bool queued =
        runner_.Submit(stream_, std::move(plan), [weak = weak_from_this()](StepResult result) {
          if (const std::shared_ptr<Session> session = weak.lock()) {
            session->Deliver(std::move(result));
          }
        });
    if (!queued) {
      return End(absl::ResourceExhaustedError("too many step plans without waiting for results"));
    }
    StartRead(&incoming_);
  }

  // The coordinator sends no more: what it has sent is still answered.
  void EndWhenAnswered() {
    absl::MutexLock lock(&mutex_);
    reads_done_ = true;
    if (unanswered_ > 0 || ending_) return;
    ending_ = true;
    FinishIfQuiet();
  }

  void Deliver(StepResult result) {
    absl::MutexLock lock(&mutex_);
    --unanswered_;
    if (ending_) return;
    outgoing_.push_back(std::move(result));
    if (outgoing_.size() == 1) StartWrite(&outgoing_.front());
  }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&mutex_);
    outgoing_.pop_front();
    if (!ok) ending_ = true;
    if (ending_) outgoing_.clear();
    if (!outgoing_.empty()) return StartWrite(&outgoing_.front());
    if (reads_done_ && unanswered_ == 0) ending_ = true;
    FinishIfQuiet();
  }

  void OnCancel() override { End(absl::CancelledError("the coordinator went away")); }

  void OnDone() override {
    runner_.CloseStream(stream_);
    const std::shared_ptr<Session> last_use = std::move(self_);
  }

  // gRPC wants no write under way when a stream finishes. The first of `outgoing_` is being
  // written.
  void FinishIfQuiet() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!ending_ || finished_ || !outgoing_.empty()) return;
    finished_ = true;
    Finish(rpc::ToGrpc(why_));
  }

  EngineRunner& runner_;
  const uint64_t stream_;
  StepPlan incoming_;
  std::shared_ptr<Session> self_;
  absl::Mutex mutex_;
  std::deque<StepResult> outgoing_ ABSL_GUARDED_BY(mutex_);
  int unanswered_ ABSL_GUARDED_BY(mutex_) = 0;
  bool reads_done_ ABSL_GUARDED_BY(mutex_) = false;
  bool ending_ ABSL_GUARDED_BY(mutex_) = false;
  bool finished_ ABSL_GUARDED_BY(mutex_) = false;
  absl::Status why_ ABSL_GUARDED_BY(mutex_);
};

class GrpcEngineService final : public EngineService, public engine::v1::Engine::CallbackService {
 public:
  GrpcEngineService(EngineRunner& runner, DescribeResponse description)
      : runner_(runner), description_(std::move(description)) {}

  grpc::Service* service() override { return this; }

  void EndStream(const absl::Status& why) override {
    std::shared_ptr<Session> session;
    {
      absl::MutexLock lock(&mutex_);
      session = session_.lock();
    }
    if (session != nullptr) session->End(why);
  }

  grpc::ServerBidiReactor<StepPlan, StepResult>* Run(
      grpc::CallbackServerContext* context) override {
    base::LogInfo("engine_stream_opened", {{"peer", context->peer()}});
    EndStream(absl::AbortedError("another stream of step plans was opened"));
    const std::shared_ptr<Session> session = Session::Open(runner_);
    absl::MutexLock lock(&mutex_);
    session_ = session;
    return session.get();
  }

  grpc::ServerUnaryReactor* Describe(grpc::CallbackServerContext* context, const DescribeRequest*,
                                     DescribeResponse* response) override {
    *response = description_;
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(grpc::Status::OK);
    return reactor;
  }

 private:
  EngineRunner& runner_;
  const DescribeResponse description_;
  absl::Mutex mutex_;
  std::weak_ptr<Session> session_ ABSL_GUARDED_BY(mutex_);  // the newest
};

}  // namespace

std::unique_ptr<EngineService> EngineService::Make(EngineRunner& runner,
                                                   DescribeResponse description) {
  return std::make_unique<GrpcEngineService>(runner, std::move(description));
}

}  // namespace tandem::gpu_worker
