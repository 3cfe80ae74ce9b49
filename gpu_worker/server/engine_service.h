// EngineService: the worker's side of proto/engine.proto. One coordinator stream at a time; opening
// another ends the first.
#pragma once

#include <memory>

#include "absl/status/status.h"
#include "gpu_worker/server/engine_runner.h"
#include "proto/engine.pb.h"

namespace grpc {
class Service;
}

namespace tandem::gpu_worker {

class EngineService {
 public:
  // `runner` must outlive this; `description` answers Describe.
  static std::unique_ptr<EngineService> Make(EngineRunner& runner,
                                             engine::v1::DescribeResponse description);
  virtual ~EngineService() = default;
  virtual grpc::Service* service() = 0;
  // Ends the open stream, if any, with `why`.
  virtual void EndStream(const absl::Status& why) = 0;
};

}  // namespace tandem::gpu_worker
