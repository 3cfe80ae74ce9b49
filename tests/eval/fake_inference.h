// FakeInference: a coordinator's face without a model behind it, for tests of the eval client. It
// answers what the test says, counts what it was asked, and listens on a free port of the loopback
// interface.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "proto/inference.grpc.pb.h"

namespace tandem::eval {

class FakeInference final : public inference::v1::Inference::Service {
 public:
  using Writer = grpc::ServerWriter<inference::v1::GenerateChunk>;
  // `attempt` counts the requests with this id from 1.
  using Behaviour =
      std::function<grpc::Status(const inference::v1::GenerateRequest& request, int attempt,
                                 grpc::ServerContext* context, Writer* writer)>;

  explicit FakeInference(Behaviour behaviour);
  ~FakeInference() override;

  const std::string& address() const { return address_; }
  int requests() const;
  int requests(const std::string& request_id) const;
  int most_in_flight() const;
  std::vector<inference::v1::GenerateRequest> seen() const;
  // What GetModelInfo says; ready from the start.
  void SetModel(const inference::v1::ModelInfo& model);
  inference::v1::ModelInfo model() const;

  // Writes `text` in one chunk that ends the answer.
  static grpc::Status Say(const std::string& text, Writer* writer,
                          inference::v1::FinishReason reason = inference::v1::FINISH_REASON_STOP);
  // Waits until the client goes away, 20 s at most.
  static grpc::Status Hang(grpc::ServerContext* context);

  grpc::Status Generate(grpc::ServerContext* context, const inference::v1::GenerateRequest* request,
                        Writer* writer) override;
  grpc::Status GetModelInfo(grpc::ServerContext* context,
                            const inference::v1::GetModelInfoRequest* request,
                            inference::v1::ModelInfo* info) override;

 private:
  const Behaviour behaviour_;
  mutable absl::Mutex mutex_;
  std::vector<inference::v1::GenerateRequest> seen_ ABSL_GUARDED_BY(mutex_);
  std::map<std::string, int> requests_by_id_ ABSL_GUARDED_BY(mutex_);
  int in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  int most_in_flight_ ABSL_GUARDED_BY(mutex_) = 0;
  inference::v1::ModelInfo model_ ABSL_GUARDED_BY(mutex_);
  std::string address_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace tandem::eval
