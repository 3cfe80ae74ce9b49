// ShmServer: the worker's end of the shared-memory transport. A thread of its own lets callers in;
// the thread that computes takes their calls straight from the rings and writes answers straight
// into them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "lib/rpc/expert_call.h"
#include "lib/rpc/wake_set.h"

namespace tandem::rpc {

// One call as it came. `call` views memory that lives as long as `memory` does.
struct ShmCall {
  const IncomingCall* call = nullptr;
  int64_t sent_ns = 0;  // on CLOCK_MONOTONIC, never in the future
  std::shared_ptr<const void> memory;
  ReplyTo reply;  // for the thread that calls Poll
};

class ShmServer {
 public:
  struct Options {
    std::string address;  // of the worker, as others know it
    int connections_max = 64;
  };
  // Opens the socket and lets callers in. `wake` wakes the polling thread. Errors are the system's.
  static absl::StatusOr<std::unique_ptr<ShmServer>> Start(const Options& options,
                                                          std::shared_ptr<WakeSet> wake);
  ~ShmServer();  // hangs up on everybody

  // Everything from here to the destructor is for one thread, which must have ended or let go
  // before the server does.

  // Takes up to `calls_max` calls that have arrived. A peer that writes nonsense is hung up on,
  // with a line in the log. Returns how many were taken.
  size_t Poll(size_t calls_max, const std::function<void(ShmCall)>& on_call);

  // Before the thread sleeps: callers are told to wake it. False when calls have arrived meanwhile.
  bool AnnounceSleep();
  void AnnounceAwake();
  // What WakeSet::Wait reports: reads away the wake-up, or notices that the peer has gone.
  void OnEvent(uint64_t tag);

 private:
  struct Connection;

  ShmServer(const Options& options, std::shared_ptr<WakeSet> wake)
      : options_(options), wake_(wake) {}
  void AcceptMain();
  void AcceptOne();
  void Refresh();
  bool TakeOne(const std::shared_ptr<Connection>& connection,
               const std::function<void(ShmCall)>& on_call);
  void Close(const std::shared_ptr<Connection>& connection, const std::string& why);

  const Options options_;
  const std::shared_ptr<WakeSet> wake_;
  UniqueFd listener_;
  UniqueFd stop_;
  std::thread acceptor_;

  absl::Mutex mutex_;
  std::vector<std::shared_ptr<Connection>> joined_ ABSL_GUARDED_BY(mutex_);  // not yet polled
  int open_ ABSL_GUARDED_BY(mutex_) = 0;
  std::atomic<bool> has_joined_{false};
  uint64_t next_tag_ = 1;  // acceptor only

  // The polling thread's.
  std::vector<std::shared_ptr<Connection>> connections_;
  bool asleep_ = false;
};

}  // namespace tandem::rpc
