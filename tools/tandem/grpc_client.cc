#include "tools/tandem/grpc_client.h"

#include <grpcpp/grpcpp.h>

#include "absl/time/clock.h"
#include "lib/rpc/channel.h"
#include "lib/rpc/status_map.h"
#include "proto/inference.grpc.pb.h"

namespace tandem::launcher {

struct CoordinatorClient::Impl {
  std::unique_ptr<inference::v1::Inference::Stub> stub;
};

CoordinatorClient::CoordinatorClient(const std::string& address) : impl_(std::make_unique<Impl>()) {
  impl_->stub = inference::v1::Inference::NewStub(rpc::MakeChannel(address));
}

CoordinatorClient::~CoordinatorClient() = default;

absl::StatusOr<inference::v1::ModelInfo> CoordinatorClient::Info(absl::Duration timeout) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  context.set_wait_for_ready(true);
  inference::v1::ModelInfo info;
  const grpc::Status status = impl_->stub->GetModelInfo(&context, {}, &info);
  if (!status.ok()) return rpc::FromGrpc(status);
  return info;
}

absl::Status CoordinatorClient::Generate(
    const inference::v1::GenerateRequest& request, absl::Duration timeout,
    const std::function<bool(const inference::v1::GenerateChunk&)>& on_chunk) {
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  auto reader = impl_->stub->Generate(&context, request);
  inference::v1::GenerateChunk chunk;
  bool wanted = true;
  while (reader->Read(&chunk)) {
    if (wanted && !on_chunk(chunk)) {
      wanted = false;
      context.TryCancel();
    }
  }
  return rpc::FromGrpc(reader->Finish());
}

}  // namespace tandem::launcher
