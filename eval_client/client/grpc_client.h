// GrpcClient: the judge's only tie to what it judges, the same gRPC service any user calls.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "eval_client/client/answer.h"
#include "eval_client/client/ask_options.h"
#include "proto/inference.pb.h"

namespace tandem::eval {

class GrpcClient {
 public:
  // `endpoint`: host:port of a coordinator. Does not connect yet.
  explicit GrpcClient(const std::string& endpoint);
  ~GrpcClient();

  // One attempt. The server's status, or UNAVAILABLE when it cannot be reached.
  absl::StatusOr<inference::v1::ModelInfo> GetModelInfo(absl::Duration timeout);

  // Sends `prompt`, as the one user message of a chat or as text to continue, and waits for the
  // whole answer, trying again as `options.retry` says. The text of a broken attempt is dropped:
  // the seed makes the next one give the same. Letters are those the model's vocabulary has as one
  // token each (" A" behind text, "A" in a chat); otherwise there are no letter_logprobs.
  // Thread-safe.
  Answer Ask(const std::string& request_id, const std::string& prompt, uint64_t seed,
             const AskOptions& options);

  // Ends running calls and waits between attempts, and all later ones, with CANCELLED.
  void CancelAll();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::eval
