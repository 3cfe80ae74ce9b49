#include "lib/rpc/engine_link.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/base/bounded_queue.h"
#include "lib/base/status_macros.h"
#include "lib/rpc/bidi_stream.h"
#include "lib/rpc/channel.h"
#include "proto/engine.grpc.pb.h"

namespace tandem::rpc {
namespace {

using engine::v1::StepPlan;
using engine::v1::StepResult;
using Stream = BidiStream<StepPlan, StepResult>;

// One plan is out at a time, so more results than this come from a broken peer.
constexpr size_t kResultsWaitingMax = 4;
constexpr size_t kQueueBytesMax = size_t{64} << 20;

class GrpcEngineLink final : public EngineLink {
 public:
  explicit GrpcEngineLink(const std::string& address)
      : address_(address), stub_(engine::v1::Engine::NewStub(MakeChannel(address))) {}

  ~GrpcEngineLink() override {
    Abort();
    // The reactions hold what they use (inbox, stream); the stub's channel is held by the call
    // itself.
  }

  const std::string& address() const override { return address_; }

  absl::StatusOr<engine::v1::DescribeResponse> Describe(absl::Duration timeout) override {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    engine::v1::DescribeResponse response;
    const grpc::Status status = stub_->Describe(&context, {}, &response);
    if (!status.ok()) return Failed(FromGrpc(status));
    return response;
  }

  absl::StatusOr<StepResult> RunStep(StepPlan plan, absl::Duration timeout) override {
    const uint64_t step_id = plan.step_id();
    const auto timeout_ms =
        static_cast<uint64_t>(std::max<int64_t>(1, absl::ToInt64Milliseconds(timeout)));
    if (plan.deadline_ms() == 0 || plan.deadline_ms() > timeout_ms)
      plan.set_deadline_ms(timeout_ms);
    TANDEM_ASSIGN_OR_RETURN(std::shared_ptr<Stream> stream, OpenedStream());
    if (stream->Write(std::move(plan)) != Stream::WriteOutcome::kQueued) {
      return Failed(absl::UnavailableError("the stream has ended"));
    }
    std::optional<absl::StatusOr<StepResult>> result = inbox_->PopFor(timeout);
    if (!result.has_value()) {
      Abort();
      return absl::DeadlineExceededError(absl::StrCat("GPU worker ", address_,
                                                      " did not finish step ", step_id, " within ",
                                                      absl::FormatDuration(timeout)));
    }
    if (!result->ok()) return Failed(result->status());
    if ((*result)->step_id() != step_id) {
      Abort();
      return Failed(absl::InternalError(
          absl::StrCat("expected the result of step ", step_id, ", found ", (*result)->step_id())));
    }
    return *std::move(result);
  }

  void Abort() override {
    absl::MutexLock lock(&mutex_);
    aborted_ = true;
    if (stream_ != nullptr) stream_->Cancel();
  }

 private:
  using Inbox = base::BoundedQueue<absl::StatusOr<StepResult>>;

  absl::Status Failed(const absl::Status& why) const {
    return absl::UnavailableError(absl::StrCat("GPU worker ", address_, ": ", why.message()));
  }

  absl::StatusOr<std::shared_ptr<Stream>> OpenedStream() {
    absl::MutexLock lock(&mutex_);
    if (aborted_) return absl::UnavailableError(absl::StrCat("link to ", address_, " was ended"));
    if (stream_ == nullptr) {
      auto inbox = inbox_;
      stream_ = Stream::Open(
          [this](grpc::ClientContext* context, auto* reactor) {
            stub_->async()->Run(context, reactor);
          },
          {[inbox](StepResult result) { inbox->TryPush(std::move(result)); },
           [inbox](absl::Status why) {
             inbox->TryPush(why.ok() ? absl::UnavailableError("it ended the stream") : why);
           }},
          kQueueBytesMax);
    }
    return stream_;
  }

  const std::string address_;
  const std::unique_ptr<engine::v1::Engine::Stub> stub_;
  const std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>(kResultsWaitingMax);
  absl::Mutex mutex_;
  std::shared_ptr<Stream> stream_ ABSL_GUARDED_BY(mutex_);
  bool aborted_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace

std::unique_ptr<EngineLink> EngineLink::Make(const std::string& address) {
  return std::make_unique<GrpcEngineLink>(address);
}

}  // namespace tandem::rpc
