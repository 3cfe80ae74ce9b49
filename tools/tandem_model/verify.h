// `tandem-model verify`: reads every byte of a model and checks that it can be served.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "lib/model/model_weights.h"

namespace tandem {

struct VerifyResult {
  std::string digest;
  int64_t tensors = 0;
  int64_t bytes = 0;
};

// False stops with CANCELLED.
using VerifyProgress = std::function<bool(int64_t bytes_done, int64_t bytes_total)>;

// Opens the model, then reads every row of every tensor of its files: in block formats no scale, in
// plain formats no value may be infinite or NaN. DATA_LOSS names file, tensor and row.
absl::StatusOr<VerifyResult> VerifyModel(const std::string& path, const LoadOptions& options,
                                         const VerifyProgress& progress);

}  // namespace tandem
