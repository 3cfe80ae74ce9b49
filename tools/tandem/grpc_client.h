// What the launcher asks a coordinator, without grpcpp in its headers.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/inference.pb.h"

namespace tandem::launcher {

class CoordinatorClient {
 public:
  explicit CoordinatorClient(const std::string& address);
  ~CoordinatorClient();

  absl::StatusOr<inference::v1::ModelInfo> Info(absl::Duration timeout);
  // Calls `on_chunk` for each part of the answer; false from it cancels the rest (CANCELLED).
  absl::Status Generate(const inference::v1::GenerateRequest& request, absl::Duration timeout,
                        const std::function<bool(const inference::v1::GenerateChunk&)>& on_chunk);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::launcher
