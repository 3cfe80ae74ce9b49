// The membership RPCs: what workers call. A thin coat over Registry.
#pragma once

#include <memory>

#include "coordinator/membership/registry.h"

namespace grpc {
class Service;
}

namespace tandem::coordinator {

// `registry` must outlive the service.
std::shared_ptr<grpc::Service> MakeMembershipService(Registry* registry);

}  // namespace tandem::coordinator
