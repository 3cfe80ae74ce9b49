// `tandem-model inspect`: what a model's files hold, without reading their weights.
#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "lib/model/model_weights.h"

namespace tandem {

struct InspectOptions {
  bool json = false;
  bool tensors = false;  // list every tensor
  LoadOptions load;
};

// The report as text for people or as one JSON object. Errors are LoadModel's.
absl::StatusOr<std::string> InspectModel(const std::string& path, const InspectOptions& options);

}  // namespace tandem
