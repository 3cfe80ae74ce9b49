// HttpServer: HTTP/1.1 for users, in front of an HttpHandler. Bounded in everything a stranger can
// make large or long: connections, headers, bodies, waits. A slow reader costs a buffer, never a
// thread; one who leaves is noticed while his answer is still being made.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "coordinator/api/http_exchange.h"

namespace tandem::coordinator {

struct HttpServerOptions {
  std::string listen = "127.0.0.1:0";
  int threads = 2;
  // More are told 503.
  int connections_max = 512;
  uint32_t header_bytes_max = 16 << 10;
  // The longest context there is (163,840 tokens) is 1 MiB as text or token ids; this leaves room
  // for batches.
  uint64_t body_bytes_max = 16 << 20;
  uint64_t body_bytes_sum_max = 256 << 20;  // of all that are coming in
  // A connection without a request; OpenAI's client keeps idle ones for 5 s.
  std::chrono::milliseconds idle_max = std::chrono::seconds(75);
  std::chrono::milliseconds header_wait_max = std::chrono::seconds(10);
  std::chrono::milliseconds body_wait_max = std::chrono::seconds(60);
  // For each 64 KiB of an answer.
  std::chrono::milliseconds write_wait_max = std::chrono::seconds(30);
  // An answer that says nothing for so long is asked for a sign of life.
  std::chrono::milliseconds ping_interval = std::chrono::seconds(10);
};

class HttpServer {
 public:
  // `handler` must outlive the server. UNAVAILABLE when it cannot listen.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const HttpServerOptions& options,
                                                           HttpHandler* handler);
  // Breaks off what still runs; the replies are destroyed before this returns.
  virtual ~HttpServer() = default;

  // host:port, with the port that was taken when 0 was asked for.
  virtual const std::string& address() const = 0;
  // Answers being made or sent.
  virtual int answers() const = 0;
  // Takes no further connections.
  virtual void StopAccepting() = 0;
};

}  // namespace tandem::coordinator
