#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstring>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "proto/inference.grpc.pb.h"
#include "tests/cluster/inference_client.h"

namespace tandem::cluster_test {

struct InferenceClient::Impl {
  std::shared_ptr<grpc::Channel> channel;
  std::unique_ptr<inference::v1::Inference::Stub> stub;
};

namespace {

absl::Status ToAbslStatus(const grpc::Status& status) {
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

void Append(const inference::v1::GenerateChunk& chunk, Answer* answer) {
  answer->text += chunk.text();
  for (const auto& token : chunk.tokens()) {
    answer->ids.push_back(token.id());
    answer->logprobs.push_back(token.logprobs());
  }
  answer->prompt_logprobs.insert(answer->prompt_logprobs.end(), chunk.prompt_logprobs().begin(),
                                 chunk.prompt_logprobs().end());
}

}  // namespace

InferenceClient::InferenceClient(const std::string& address) : impl_(std::make_unique<Impl>()) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(256 << 20);
  impl_->channel =
      grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
  impl_->stub = inference::v1::Inference::NewStub(impl_->channel);
}

InferenceClient::~InferenceClient() = default;

absl::StatusOr<Answer> InferenceClient::Generate(const inference::v1::GenerateRequest& request,
                                                 absl::Duration timeout,
                                                 const std::function<void(int)>& on_token) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMilliseconds(timeout));
  auto reader = impl_->stub->Generate(&context, request);
  Answer answer;
  inference::v1::GenerateChunk chunk;
  while (reader->Read(&chunk)) {
    Append(chunk, &answer);
    if (on_token && chunk.tokens_size() > 0) on_token(static_cast<int>(answer.ids.size()));
    answer.last = chunk;
  }
  const grpc::Status status = reader->Finish();
  if (!status.ok()) return ToAbslStatus(status);
  return answer;
}

absl::StatusOr<inference::v1::ModelInfo> InferenceClient::Info() {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(5));
  inference::v1::ModelInfo info;
  const grpc::Status status = impl_->stub->GetModelInfo(&context, {}, &info);
  if (!status.ok()) return ToAbslStatus(status);
  return info;
}

absl::Status InferenceClient::WaitReady(absl::Duration wait_max) {
  const absl::Time end = absl::Now() + wait_max;
  std::string reason = "no answer";
  while (absl::Now() < end) {
    auto info = Info();
    if (info.ok() && info->ready()) return absl::OkStatus();
    reason = info.ok() ? info->not_ready_reason() : std::string(info.status().message());
    absl::SleepFor(absl::Milliseconds(50));
  }
  return absl::DeadlineExceededError(absl::StrCat("not ready: ", reason));
}

std::string Fingerprint(const Answer& answer) {
  std::string text;
  for (size_t i = 0; i < answer.ids.size(); ++i) {
    absl::StrAppend(&text, answer.ids[i], ":");
    for (const auto& entry : answer.logprobs[i].top()) {
      uint32_t bits;
      const float value = entry.logprob();
      std::memcpy(&bits, &value, sizeof bits);
      absl::StrAppend(&text, entry.token_id(), "=", absl::Hex(bits), ",");
    }
    text += "\n";
  }
  return text;
}

inference::v1::GenerateRequest TokenRequest(const std::vector<uint32_t>& prompt, int max_tokens,
                                            int vocab) {
  inference::v1::GenerateRequest request;
  request.mutable_tokens()->mutable_ids()->Add(prompt.begin(), prompt.end());
  request.set_max_tokens(max_tokens);
  auto& sampling = *request.mutable_sampling();
  sampling.set_temperature(0);
  sampling.set_ignore_stop_tokens(true);
  if (vocab > 0) {
    sampling.set_logprobs(true);
    sampling.set_top_logprobs(vocab);
    request.set_prompt_logprobs_plus1(vocab + 1);
  }
  return request;
}

}  // namespace tandem::cluster_test
