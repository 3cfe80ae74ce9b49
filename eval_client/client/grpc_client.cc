#include "eval_client/client/grpc_client.h"

#include <grpcpp/grpcpp.h>

#include <set>

#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "lib/base/clock.h"
#include "proto/inference.grpc.pb.h"

namespace tandem::eval {
namespace {

// gRPC's status codes are numbered as Abseil's are.
absl::Status FromGrpc(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

std::shared_ptr<grpc::Channel> OpenChannel(const std::string& endpoint) {
  grpc::ChannelArguments arguments;
  // A proxy set in the environment is for the internet, not for a cluster next door.
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  // A server that restarts is back in seconds; gRPC's own default waits up to two minutes between
  // attempts.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  return grpc::CreateCustomChannel(endpoint, grpc::InsecureChannelCredentials(), arguments);
}

inference::v1::GenerateRequest MakeRequest(const std::string& request_id, const std::string& prompt,
                                           uint64_t seed, const AskOptions& options) {
  inference::v1::GenerateRequest request;
  request.set_request_id(request_id);
  if (options.continue_text) {
    request.set_text(prompt);
  } else {
    auto* message = request.mutable_chat()->add_messages();
    message->set_role("user");
    message->set_content(prompt);
  }
  for (const std::string& stop : options.stop) request.add_stop(stop);
  request.mutable_sampling()->set_temperature(options.temperature);
  request.mutable_sampling()->set_seed(seed);
  request.set_max_tokens(options.max_tokens);
  return request;
}

Finish FinishOf(inference::v1::FinishReason reason) {
  switch (reason) {
    case inference::v1::FINISH_REASON_STOP:
      return Finish::kStop;
    case inference::v1::FINISH_REASON_LENGTH:
      return Finish::kLength;
    default:
      return Finish::kUnknown;
  }
}

void AddChunk(const inference::v1::GenerateChunk& chunk, Answer* answer) {
  answer->text += chunk.text();
  if (chunk.finish_reason() == inference::v1::FINISH_REASON_UNSPECIFIED) return;
  answer->finish = FinishOf(chunk.finish_reason());
  answer->prompt_tokens = chunk.prompt_tokens();
  answer->completion_tokens = chunk.completion_tokens();
  answer->queue_us = chunk.queue_us();
  answer->first_token_us = chunk.first_token_us();
  answer->total_us = chunk.total_us();
}

}  // namespace

struct GrpcClient::Impl {
  explicit Impl(const std::string& endpoint)
      : stub(inference::v1::Inference::NewStub(OpenChannel(endpoint))) {}

  // Lists a context among the running ones while it lives, so that CancelAll reaches it.
  class Running {
   public:
    Running(Impl* impl, grpc::ClientContext* context) : impl_(impl), context_(context) {
      absl::MutexLock lock(&impl_->mutex);
      impl_->running.insert(context_);
      if (impl_->cancelled) context_->TryCancel();
    }
    ~Running() {
      absl::MutexLock lock(&impl_->mutex);
      impl_->running.erase(context_);
    }

   private:
    Impl* impl_;
    grpc::ClientContext* context_;
  };

  Answer AskOnce(const inference::v1::GenerateRequest& request, absl::Time deadline) {
    grpc::ClientContext context;
    context.set_deadline(absl::ToChronoTime(deadline));
    Running running_call(this, &context);
    Answer answer;
    auto reader = stub->Generate(&context, request);
    for (inference::v1::GenerateChunk chunk; reader->Read(&chunk);) AddChunk(chunk, &answer);
    answer.status = FromGrpc(reader->Finish());
    if (answer.status.ok() && answer.finish == Finish::kUnknown) {
      answer.status = absl::InternalError("the answer ended without a finish reason");
    }
    return answer;
  }

  // True when the wait was cut short by CancelAll.
  bool SleepUnlessCancelled(absl::Duration wait) {
    absl::MutexLock lock(&mutex);
    return mutex.AwaitWithTimeout(absl::Condition(&cancelled), wait);
  }

  std::unique_ptr<inference::v1::Inference::Stub> stub;
  absl::Mutex mutex;
  std::set<grpc::ClientContext*> running ABSL_GUARDED_BY(mutex);
  bool cancelled ABSL_GUARDED_BY(mutex) = false;
};

GrpcClient::GrpcClient(const std::string& endpoint) : impl_(std::make_unique<Impl>(endpoint)) {}
GrpcClient::~GrpcClient() = default;

absl::StatusOr<inference::v1::ModelInfo> GrpcClient::GetModelInfo(absl::Duration timeout) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  Impl::Running running_call(impl_.get(), &context);
  inference::v1::ModelInfo info;
  const grpc::Status status =
      impl_->stub->GetModelInfo(&context, inference::v1::GetModelInfoRequest(), &info);
  if (!status.ok()) return FromGrpc(status);
  return info;
}

Answer GrpcClient::Ask(const std::string& request_id, const std::string& prompt, uint64_t seed,
                       const AskOptions& options) {
  const auto request = MakeRequest(request_id, prompt, seed, options);
  const absl::Duration started = base::RealClock().Monotonic();
  const absl::Time deadline = absl::Now() + options.timeout;
  Answer answer;
  for (int attempt = 1;; ++attempt) {
    answer = impl_->AskOnce(request, deadline);
    answer.attempts = attempt;
    if (!IsRetryable(answer.status) || attempt >= options.retry.attempts_max) break;
    const absl::Duration wait = BackoffWait(options.retry, attempt, seed);
    if (absl::Now() + wait >= deadline) break;
    if (impl_->SleepUnlessCancelled(wait)) {
      answer.status = absl::CancelledError("stopped between attempts");
      break;
    }
  }
  if (!answer.status.ok()) {
    answer = Answer{.status = answer.status, .text = "", .wall = {}, .attempts = answer.attempts};
  }
  answer.wall = base::RealClock().Monotonic() - started;
  return answer;
}

void GrpcClient::CancelAll() {
  absl::MutexLock lock(&impl_->mutex);
  impl_->cancelled = true;
  for (grpc::ClientContext* context : impl_->running) context->TryCancel();
}

}  // namespace tandem::eval
