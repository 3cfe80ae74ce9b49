// AdminServer: GET /metrics, /healthz and /readyz over plain HTTP for Prometheus and orchestrators.
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "lib/telemetry/metrics.h"

namespace tandem::rpc {

struct AdminOptions {
  std::string listen = "127.0.0.1:0";
  telemetry::Metrics* metrics = nullptr;  // must outlive the server
  // OK: 200 {"status":"ok"}. Otherwise 503 with the status' message. Called on the server's thread.
  std::function<absl::Status()> ready;
};

class AdminServer {
 public:
  static absl::StatusOr<std::unique_ptr<AdminServer>> Start(AdminOptions options);
  virtual ~AdminServer() = default;
  virtual int port() const = 0;
};

}  // namespace tandem::rpc
