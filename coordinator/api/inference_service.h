// The inference RPCs: what users call. Checks and tokenizes a request, hands it to the step loop
// and streams the answer back.
#pragma once

#include <functional>
#include <memory>

#include "absl/status/status.h"
#include "coordinator/membership/registry.h"
#include "coordinator/request/text_model.h"
#include "coordinator/step/step_loop.h"
#include "lib/base/clock.h"

namespace grpc {
class Service;
}

namespace tandem::coordinator {

// All must outlive the service.
struct InferenceParts {
  const TextModel* model = nullptr;
  StepLoop* loop = nullptr;
  const Registry* registry = nullptr;
  const base::Clock* clock = nullptr;
  uint32_t context_tokens = 0;
  std::string recipe_name = {};  // empty without a recipe, like the next
  std::string recipe_digest = {};
};

std::shared_ptr<grpc::Service> MakeInferenceService(const InferenceParts& parts);

}  // namespace tandem::coordinator
