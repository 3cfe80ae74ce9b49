// ExpertService: the gRPC face of the compute loop. One long-lived stream per GPU worker; answers
// go back in the order they are ready.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "cpu_worker/server/compute_loop.h"
#include "proto/experts.pb.h"

namespace grpc {
class Service;
}

namespace tandem::cpu_worker {

struct ServiceOptions {
  ComputeLoop* loop = nullptr;  // must outlive the service
  // What Describe answers; called on a gRPC thread.
  std::function<experts::v1::DescribeResponse()> describe;
};

// Shared only so that owners need not know gRPC's type. A stream that breaks, sends nonsense or
// does not read its answers ends alone; others go on.
std::shared_ptr<grpc::Service> MakeExpertService(const ServiceOptions& options);

}  // namespace tandem::cpu_worker
