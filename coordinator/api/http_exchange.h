// What an HTTP server and the one who answers say to each other. Nothing of Boost in here, so that
// answers are made and tested without a socket.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/time.h"

namespace tandem::coordinator {

using HttpFields = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method;         // "GET"
  std::string path;           // "/v1/models", without the query
  std::string authorization;  // fields as they came, empty when absent
  std::string content_type;
  std::string content_encoding;
  std::string origin;
  std::string id;  // of the field x-request-id; made up when absent or unfit
  std::string body;
};

struct HttpHead {
  int status = 200;
  std::string content_type = "application/json";
  HttpFields fields;  // names and values without line ends
};

// A piece of an answer. The first one has the head. A first piece that is also the last becomes an
// answer of known length, all others a stream.
struct HttpPart {
  std::optional<HttpHead> head;
  std::string body;
  bool last = false;
  bool empty() const { return !head && body.empty() && !last; }
};

// One answer in the making. The server takes parts when its client can take them, so whoever makes
// them never waits for a slow reader. All functions are called by one thread at a time. Destroyed
// after the last part, or before it when the client has left: then nobody wants the rest.
class HttpReply {
 public:
  virtual ~HttpReply() = default;
  // What there is by now; empty when there is nothing new. `waited_long`: nothing has been sent for
  // a while, so a stream may say that it lives.
  virtual HttpPart Take(bool waited_long) = 0;
};

// For the log and the counters.
struct HttpOutcome {
  const HttpRequest& request;  // its body may be gone
  int status = 0;              // 499: the client left before the end
  uint64_t body_bytes = 0;     // sent
  absl::Duration duration;     // from the end of the request to the end of the answer
};

// Thread-safe: several connections ask at once.
class HttpHandler {
 public:
  virtual ~HttpHandler() = default;
  // Looks at a request whose body was not read yet. An answer here ends the connection.
  virtual std::optional<HttpPart> Refuse(const HttpRequest& request) = 0;
  // Never null. `wake` tells the server that Take has something new; any thread may call it, also
  // after the reply is destroyed. It does not block.
  virtual std::unique_ptr<HttpReply> Handle(HttpRequest request, std::function<void()> wake) = 0;
  // The whole answer to what the server itself has to refuse: bytes that are no HTTP, bodies that
  // are too long, too many connections.
  virtual HttpPart Complain(int status, const std::string& message) = 0;
  // Adds fields that every answer to `request` has, whoever made it.
  virtual void Decorate(const HttpRequest& request, HttpHead* head) = 0;
  virtual void Done(const HttpOutcome& outcome) = 0;
  // How many connections are open now.
  virtual void CountConnections(int open) = 0;
};

// The reply whose answer is known at once.
class WholeReply final : public HttpReply {
 public:
  explicit WholeReply(HttpPart part) : part_(std::move(part)) { part_.last = true; }
  HttpPart Take(bool) override { return std::exchange(part_, {}); }

 private:
  HttpPart part_;
};

}  // namespace tandem::coordinator
