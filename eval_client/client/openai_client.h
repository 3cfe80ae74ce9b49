// OpenAiClient: asks any server that speaks OpenAI's chat and completion protocol, so that a rival,
// a cloud service and Tandem itself sit the same exam on the same terms.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "eval_client/client/answer.h"
#include "eval_client/client/ask_options.h"
#include "eval_client/client/endpoint.h"
#include "proto/inference.pb.h"

namespace tandem::eval {

class OpenAiClient {
 public:
  // `options.address`: the URL in front of /chat/completions. Does not connect yet.
  explicit OpenAiClient(const EndpointOptions& options);
  ~OpenAiClient();

  // What /models says: the name of the model asked, ready. One attempt. UNAVAILABLE when there is
  // no server, NOT_FOUND when it does not list the wanted model; otherwise as Ask.
  absl::StatusOr<inference::v1::ModelInfo> GetModelInfo(absl::Duration timeout);

  // As GrpcClient::Ask. Letters: from the 20 most likely first tokens, the most the protocol gives;
  // when one of them is not among these there are no letter_logprobs. Errors: RESOURCE_EXHAUSTED
  // (429) and UNAVAILABLE (5xx, no connection) are tried again, a refusal (4xx) is not.
  // Thread-safe.
  Answer Ask(const std::string& request_id, const std::string& prompt, uint64_t seed,
             const AskOptions& options);

  void CancelAll();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::eval
