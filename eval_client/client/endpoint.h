// Endpoint: what is judged, reached by gRPC or by OpenAI's protocol. Suites, journal and statistics
// see only this, so Tandem and what it is compared with are asked the same things in the same way.
#pragma once

#include <functional>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "eval_client/client/answer.h"
#include "eval_client/client/ask_options.h"
#include "proto/inference.pb.h"

namespace tandem::eval {

struct Endpoint {
  // One attempt. A server that only speaks OpenAI's protocol tells no more than its model's name.
  std::function<absl::StatusOr<inference::v1::ModelInfo>(absl::Duration timeout)> info;
  // Asks and waits for the whole answer, trying again as the options say. Thread-safe. The text of
  // a broken attempt is dropped.
  std::function<Answer(const std::string& request_id, const std::string& prompt, uint64_t seed,
                       const AskOptions& options)>
      ask;
  // Ends running calls and waits between attempts, and all later ones, with CANCELLED.
  std::function<void()> cancel_all;
};

struct EndpointOptions {
  std::string address;  // host:port of a coordinator, or the http(s) URL of an OpenAI server
  // Only for OpenAI servers.
  std::string model = {};          // empty: the first one the server lists
  std::string api_key = {};        // sent as a bearer token; empty: none
  double requests_per_minute = 0;  // > 0: never more than that
};

// True for the URL of an OpenAI-compatible server, such as http://127.0.0.1:8000/v1.
bool IsHttpUrl(const std::string& address);

// Connects to nothing yet.
Endpoint MakeEndpoint(const EndpointOptions& options);

}  // namespace tandem::eval
