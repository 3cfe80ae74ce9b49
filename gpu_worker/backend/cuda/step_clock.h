// StepClock: when the device was busy with which call, for traces. Off it costs a branch a call; on
// it puts two events around each.
#pragma once

#include <cstdint>
#include <vector>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/cuda/device/device.h"

namespace tandem::gpu_worker::cuda {

class StepClock {
 public:
  explicit StepClock(Stream stream) : stream_(stream) {}

  // Switching on waits for the stream once, to set the device's clock against the host's.
  void Turn(bool on);
  bool on() const { return on_; }

  // Notes the end of a span when it goes.
  class Noted {
   public:
    Noted(StepClock* clock, size_t index) : clock_(clock), index_(index) {}
    Noted(const Noted&) = delete;
    ~Noted();

   private:
    StepClock* const clock_;  // null: off
    const size_t index_;
  };
  Noted Span(const char* name, int slot, int64_t layer);

  // All spans since the last call, once the device is through with them.
  std::vector<DeviceSpan> Take();

 private:
  struct Open {
    DeviceSpan span;
    OwnedEvent begin, end;
  };
  OwnedEvent TakeEvent();

  const Stream stream_;
  bool on_ = false;
  OwnedEvent base_;
  int64_t base_ns_ = 0;  // CLOCK_MONOTONIC when base_ was reached
  std::vector<Open> spans_;
  std::vector<OwnedEvent> spare_;
};

}  // namespace tandem::gpu_worker::cuda
