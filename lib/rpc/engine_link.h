// EngineLink: the coordinator's stream of step plans to one GPU worker. Opening it resets the
// worker; once it has failed it stays failed, and a new one is opened, so that coordinator and
// worker never disagree about what the worker remembers.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/engine.pb.h"

namespace tandem::rpc {

class EngineLink {
 public:
  // Connects at the first call.
  static std::unique_ptr<EngineLink> Make(const std::string& address);
  virtual ~EngineLink() = default;

  virtual absl::StatusOr<engine::v1::DescribeResponse> Describe(absl::Duration timeout) = 0;

  // Sends `plan` and waits for its result, `timeout` at most; that is also the plan's deadline_ms
  // when it has none, or a later one.
  // UNAVAILABLE or DEADLINE_EXCEEDED end the link; a result whose status_code is not 0 is returned
  // as it is. One call at a time.
  virtual absl::StatusOr<engine::v1::StepResult> RunStep(engine::v1::StepPlan plan,
                                                         absl::Duration timeout) = 0;

  // Ends the link from another thread; a waiting RunStep returns.
  virtual void Abort() = 0;

  virtual const std::string& address() const = 0;
};

}  // namespace tandem::rpc
