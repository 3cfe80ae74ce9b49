#include "eval_client/client/grpc_client.h"

#include <grpcpp/grpcpp.h>

#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "eval_client/client/retry.h"
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
                                           uint64_t seed, const AskOptions& options,
                                           const std::vector<uint32_t>& letter_ids) {
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
  for (const uint32_t id : letter_ids) request.mutable_sampling()->add_logprob_token_ids(id);
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
  // Of the first token alone: letters later in an answer are words of a sentence.
  if (answer->letter_logprobs.empty() && chunk.tokens_size() > 0) {
    for (const auto& letter : chunk.tokens(0).logprobs().listed()) {
      answer->letter_logprobs.push_back(letter.logprob());
    }
  }
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

  // The token of each of the first `letters` letters as the next word of a chat's answer or behind
  // text; empty when a letter is not one token or the server cannot be asked.
  std::vector<uint32_t> LetterIds(int letters, bool behind_text, absl::Time deadline) {
    if (letters == 0) return {};
    const std::string key = absl::StrCat(letters, behind_text ? " text" : " chat");
    {
      absl::MutexLock lock(&mutex);
      if (const auto known = letter_ids.find(key); known != letter_ids.end()) return known->second;
    }
    std::vector<uint32_t> ids;
    for (int i = 0; i < letters; ++i) {
      inference::v1::TokenizeRequest request;
      request.set_text(std::string(behind_text ? " " : "") + static_cast<char>('A' + i));
      inference::v1::TokenizeResponse response;
      grpc::ClientContext context;
      context.set_deadline(absl::ToChronoTime(deadline));
      Running running_call(this, &context);
      // Not remembered: the server may be back for the next question.
      if (!stub->Tokenize(&context, request, &response).ok()) return {};
      if (response.ids_size() == 1) ids.push_back(response.ids(0));
    }
    if (ids.size() != static_cast<size_t>(letters)) ids.clear();
    absl::MutexLock lock(&mutex);
    return letter_ids[key] = ids;
  }

  // True when the wait was cut short by CancelAll.
  bool SleepUnlessCancelled(absl::Duration wait) {
    absl::MutexLock lock(&mutex);
    return mutex.AwaitWithTimeout(absl::Condition(&cancelled), wait);
  }

  std::unique_ptr<inference::v1::Inference::Stub> stub;
  absl::Mutex mutex;
  std::set<grpc::ClientContext*> running ABSL_GUARDED_BY(mutex);
  std::map<std::string, std::vector<uint32_t>> letter_ids ABSL_GUARDED_BY(mutex);
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
  const auto once = [&](absl::Time deadline) {
    // Within the attempt, so that a server that was away when first asked still tells its letters.
    const auto letters = impl_->LetterIds(options.letters, options.continue_text, deadline);
    return impl_->AskOnce(MakeRequest(request_id, prompt, seed, options, letters), deadline);
  };
  return AskWithRetries(options, seed,
                        {.once = once, .sleep_unless_cancelled = [this](absl::Duration wait) {
                           return impl_->SleepUnlessCancelled(wait);
                         }});
}

void GrpcClient::CancelAll() {
  absl::MutexLock lock(&impl_->mutex);
  impl_->cancelled = true;
  for (grpc::ClientContext* context : impl_->running) context->TryCancel();
}

}  // namespace tandem::eval
