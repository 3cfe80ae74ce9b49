#include "eval_client/client/endpoint.h"

#include <memory>

#include "absl/strings/match.h"
#include "eval_client/client/grpc_client.h"
#include "eval_client/client/openai_client.h"

namespace tandem::eval {
namespace {

template <typename Client>
Endpoint EndpointOf(std::shared_ptr<Client> client) {
  Endpoint endpoint;
  endpoint.info = [client](absl::Duration timeout) { return client->GetModelInfo(timeout); };
  endpoint.ask = [client](const std::string& request_id, const std::string& prompt, uint64_t seed,
                          const AskOptions& options) {
    return client->Ask(request_id, prompt, seed, options);
  };
  endpoint.cancel_all = [client] { client->CancelAll(); };
  return endpoint;
}

}  // namespace

bool IsHttpUrl(const std::string& address) {
  return absl::StartsWithIgnoreCase(address, "http://") ||
         absl::StartsWithIgnoreCase(address, "https://");
}

Endpoint MakeEndpoint(const EndpointOptions& options) {
  if (IsHttpUrl(options.address)) return EndpointOf(std::make_shared<OpenAiClient>(options));
  return EndpointOf(std::make_shared<GrpcClient>(options.address));
}

}  // namespace tandem::eval
