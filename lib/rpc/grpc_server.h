// GrpcServer: a gRPC server with what each of our programs needs: health service, reflection,
// keepalive and message limits, a port that can be asked for, and a shutdown that ends in time.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace grpc {
class Service;
}

namespace tandem::rpc {

// One frame of the largest prefill chunk must fit: 4096 rows of 7168 int32 are 112 MiB.
inline constexpr int kMessageBytesMax = 256 << 20;

// What a peer may send ahead where bandwidth is not measured: a placement table of DeepSeek-V3 or a
// prompt of 200,000 tokens goes at once.
inline constexpr int kQuietWindowBytes = 1 << 20;

enum class Traffic {
  kFrames,  // activations: windows follow the measured bandwidth
  kQuiet,   // small messages and heartbeats: a fixed window, no pings to measure
};

class GrpcServer {
 public:
  // `listen`: host:port, port 0 for any free one; unix:path works too. `services` must outlive the
  // server. UNAVAILABLE names the address when it cannot be bound. The health service reports
  // NOT_SERVING until SetServing(true). Raises the process's limit of open files to what it may be.
  static absl::StatusOr<std::unique_ptr<GrpcServer>> Start(
      const std::string& listen, const std::vector<grpc::Service*>& services,
      Traffic traffic = Traffic::kFrames);
  ~GrpcServer();

  int port() const;
  const std::string& address() const;  // host:port with the real port
  void SetServing(bool serving);
  // NOT_SERVING, no new calls, waits up to `grace` for running ones, then cancels them.
  void Shutdown(absl::Duration grace);

 private:
  struct Impl;
  explicit GrpcServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tandem::rpc
