// GrpcClient: the judge's only tie to what it judges, the same gRPC service any user calls.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "eval_client/client/answer.h"
#include "eval_client/client/backoff.h"
#include "proto/inference.pb.h"

namespace tandem::eval {

// How one question is asked.
struct AskOptions {
  float temperature = 0.6f;
  uint32_t max_tokens = 16;
  bool continue_text = false;     // the prompt is text to continue, not a chat message
  std::vector<std::string> stop;  // strings that end the answer and are left out of it
  absl::Duration timeout = absl::Seconds(120);  // per question, all its attempts together
  RetryPolicy retry;
};

class GrpcClient {
 public:
  // `endpoint`: host:port of a coordinator. Does not connect yet.
  explicit GrpcClient(const std::string& endpoint);
  ~GrpcClient();

  // One attempt. The server's status, or UNAVAILABLE when it cannot be reached.
  absl::StatusOr<inference::v1::ModelInfo> GetModelInfo(absl::Duration timeout);

  // Sends `prompt`, as the one user message of a chat or as text to continue, and waits for the
  // whole answer, trying again as `options.retry` says. The text of a broken attempt is dropped:
  // the seed makes the next one give the same. Thread-safe.
  Answer Ask(const std::string& request_id, const std::string& prompt, uint64_t seed,
             const AskOptions& options);

  // Ends running calls and waits between attempts, and all later ones, with CANCELLED.
  void CancelAll();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::eval
