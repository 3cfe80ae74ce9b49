#include "coordinator/api/membership_service.h"

#include <grpcpp/grpcpp.h>

#include "lib/rpc/status_map.h"
#include "proto/membership.grpc.pb.h"

namespace tandem::coordinator {
namespace {

using namespace membership::v1;

class MembershipService final : public Membership::CallbackService {
 public:
  explicit MembershipService(Registry* registry) : registry_(registry) {}

  grpc::ServerUnaryReactor* Register(grpc::CallbackServerContext* context,
                                     const RegisterRequest* request,
                                     RegisterResponse* response) override {
    absl::StatusOr<RegisterResponse> registered = registry_->Register(*request);
    if (registered.ok()) *response = *std::move(registered);
    return Done(context, registered.status());
  }

  grpc::ServerUnaryReactor* Heartbeat(grpc::CallbackServerContext* context,
                                      const HeartbeatRequest* request,
                                      HeartbeatResponse* response) override {
    *response = registry_->Heartbeat(*request);
    return Done(context, absl::OkStatus());
  }

  grpc::ServerUnaryReactor* Deregister(grpc::CallbackServerContext* context,
                                       const DeregisterRequest* request,
                                       DeregisterResponse*) override {
    registry_->Deregister(request->worker_id());
    return Done(context, absl::OkStatus());
  }

  grpc::ServerUnaryReactor* GetPlacement(grpc::CallbackServerContext* context,
                                         const GetPlacementRequest*, Placement* response) override {
    // Epoch 0 says that there is no table yet.
    if (const auto table = registry_->placement()) *response = *table;
    return Done(context, absl::OkStatus());
  }

 private:
  static grpc::ServerUnaryReactor* Done(grpc::CallbackServerContext* context,
                                        const absl::Status& status) {
    grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
    reactor->Finish(rpc::ToGrpc(status));
    return reactor;
  }

  Registry* const registry_;
};

}  // namespace

std::shared_ptr<grpc::Service> MakeMembershipService(Registry* registry) {
  return std::make_shared<MembershipService>(registry);
}

}  // namespace tandem::coordinator
