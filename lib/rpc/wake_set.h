// WakeSet: one thread sleeps until any of many connections, or another thread, has something for
// it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "lib/rpc/unique_fd.h"

namespace tandem::rpc {

class WakeSet {
 public:
  // Errors are the system's: no more descriptors.
  static absl::StatusOr<std::unique_ptr<WakeSet>> Make();

  // From now on `fd` wakes the sleeper when it can be read or its peer hangs up. Remove it before
  // it is closed. Thread-safe.
  absl::Status Add(int fd, uint64_t tag);
  void Remove(int fd);

  // Wakes the sleeper, or keeps the next Wait from sleeping. Thread-safe.
  void Notify();

  // Returns when something happened or `wait_max` is over, and calls `on_event` with the tag of
  // each descriptor that did. One thread at a time.
  void Wait(absl::Duration wait_max, const std::function<void(uint64_t tag)>& on_event);

 private:
  WakeSet(UniqueFd epoll, UniqueFd event) : epoll_(std::move(epoll)), event_(std::move(event)) {}

  const UniqueFd epoll_;
  const UniqueFd event_;
};

}  // namespace tandem::rpc
