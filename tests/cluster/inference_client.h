// A blocking client of the Inference service, as small as the process tests need it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "proto/inference.pb.h"

namespace tandem::cluster_test {

struct Answer {
  std::string text;
  std::vector<uint32_t> ids;
  std::vector<sampling::v1::PositionLogprobs> logprobs;         // [ids], when asked for
  std::vector<sampling::v1::PositionLogprobs> prompt_logprobs;  // [prompt - 1], when asked for
  inference::v1::GenerateChunk last;                            // finish reason, usage, timings
};

// Ids and the exact bits of every reported log probability, as one comparable text.
std::string Fingerprint(const Answer& answer);

class InferenceClient {
 public:
  explicit InferenceClient(const std::string& address);
  ~InferenceClient();

  // `on_token` is called after each token with the count so far.
  absl::StatusOr<Answer> Generate(const inference::v1::GenerateRequest& request,
                                  absl::Duration timeout,
                                  const std::function<void(int)>& on_token = nullptr);
  absl::StatusOr<inference::v1::ModelInfo> Info();
  // Waits until GetModelInfo says ready; the last reason when it does not within `wait_max`.
  absl::Status WaitReady(absl::Duration wait_max);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// A request on token ids: greedy, `max_tokens` long, stop tokens ignored, log probabilities of all
// of `vocab` tokens when > 0.
inference::v1::GenerateRequest TokenRequest(const std::vector<uint32_t>& prompt, int max_tokens,
                                            int vocab);

}  // namespace tandem::cluster_test
