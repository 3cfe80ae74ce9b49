#include "tests/eval/fake_inference.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "lib/base/check.h"

namespace tandem::eval {

FakeInference::FakeInference(Behaviour behaviour) : behaviour_(std::move(behaviour)) {
  model_.set_name("fake");
  model_.set_digest("fake-digest");
  model_.set_expert_formats("bf16");
  model_.set_ready(true);
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.RegisterService(this);
  server_ = builder.BuildAndStart();
  TANDEM_CHECK(server_ != nullptr);
  address_ = absl::StrCat("127.0.0.1:", port);
}

FakeInference::~FakeInference() {
  server_->Shutdown(std::chrono::system_clock::now());
  server_->Wait();
}

int FakeInference::requests() const {
  absl::MutexLock lock(&mutex_);
  return static_cast<int>(seen_.size());
}

int FakeInference::requests(const std::string& request_id) const {
  absl::MutexLock lock(&mutex_);
  const auto found = requests_by_id_.find(request_id);
  return found == requests_by_id_.end() ? 0 : found->second;
}

int FakeInference::most_in_flight() const {
  absl::MutexLock lock(&mutex_);
  return most_in_flight_;
}

std::vector<inference::v1::GenerateRequest> FakeInference::seen() const {
  absl::MutexLock lock(&mutex_);
  return seen_;
}

void FakeInference::SetModel(const inference::v1::ModelInfo& model) {
  absl::MutexLock lock(&mutex_);
  model_ = model;
}

inference::v1::ModelInfo FakeInference::model() const {
  absl::MutexLock lock(&mutex_);
  return model_;
}

grpc::Status FakeInference::Say(const std::string& text, Writer* writer,
                                inference::v1::FinishReason reason) {
  inference::v1::GenerateChunk chunk;
  chunk.set_text(text);
  chunk.set_finish_reason(reason);
  chunk.set_prompt_tokens(90);
  chunk.set_completion_tokens(2);
  chunk.set_total_us(1500);
  writer->Write(chunk);
  return grpc::Status::OK;
}

grpc::Status FakeInference::Hang(grpc::ServerContext* context) {
  const absl::Time end = absl::Now() + absl::Seconds(20);
  while (!context->IsCancelled() && absl::Now() < end) absl::SleepFor(absl::Milliseconds(10));
  return grpc::Status(grpc::StatusCode::CANCELLED, "the client went away");
}

grpc::Status FakeInference::Generate(grpc::ServerContext* context,
                                     const inference::v1::GenerateRequest* request,
                                     Writer* writer) {
  int attempt;
  {
    absl::MutexLock lock(&mutex_);
    seen_.push_back(*request);
    attempt = ++requests_by_id_[request->request_id()];
    most_in_flight_ = std::max(most_in_flight_, ++in_flight_);
  }
  const grpc::Status status = behaviour_(*request, attempt, context, writer);
  absl::MutexLock lock(&mutex_);
  --in_flight_;
  return status;
}

grpc::Status FakeInference::GetModelInfo(grpc::ServerContext*,
                                         const inference::v1::GetModelInfoRequest*,
                                         inference::v1::ModelInfo* info) {
  absl::MutexLock lock(&mutex_);
  *info = model_;
  return grpc::Status::OK;
}

}  // namespace tandem::eval
