// Worker: one expert worker from start to end. Opens the model, serves calls, registers with the
// coordinator, loads what the placement table gives it, and drains when told to stop.
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lib/model/model_weights.h"

namespace tandem::cpu_worker {

struct WorkerOptions {
  std::string model_path;
  std::string recipe_path;  // empty: without a recipe
  LoadOptions load;
  std::string coordinator;  // host:port
  std::string listen = "127.0.0.1:0";
  std::string
      advertise;  // host or host:port others reach this worker at; empty: the listening address
  std::string admin_listen = "127.0.0.1:0";
  std::string name;              // worker id; made up by the member agent when empty
  int threads = 1;               // 0: one for each physical core this process may use
  int numa_node = -1;            // keep threads and experts on this memory node; -1: use all
  bool shm = true;               // serve GPU workers of this host through shared memory as well
  int64_t memory_bytes_max = 0;  // of experts; 0 is unlimited
};

class Worker {
 public:
  // Opens the model and both ports and starts to register; experts are loaded later, when the
  // placement names them. Errors are what keeps a worker from starting, one sentence each.
  static absl::StatusOr<std::unique_ptr<Worker>> Start(const WorkerOptions& options);
  virtual ~Worker() = default;

  virtual const std::string& address() const = 0;  // host:port as registered
  virtual int admin_port() const = 0;
  virtual const std::string& worker_id() const = 0;
  // OK when the experts of a placement table are loaded and proven.
  virtual absl::Status Ready() const = 0;
  // Reports the load to the coordinator and brings gauges up to date; call every few seconds.
  virtual void Tick() = 0;
  // DRAINING: goes on answering until callers have moved away or `grace` is over, finishes the
  // queue, leaves the cluster. Call once.
  virtual void Drain(absl::Duration grace) = 0;
};

}  // namespace tandem::cpu_worker
