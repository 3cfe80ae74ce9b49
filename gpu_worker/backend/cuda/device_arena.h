// DeviceArena: one allocation, cut into pieces that are planned before it is made: the same code
// runs once to count and once to place, so that the plan cannot differ from what is used.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

#include "absl/status/statusor.h"
#include "gpu_worker/backend/cuda/device/device.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {

class DeviceArena {
 public:
  // Counts only: Take returns null.
  DeviceArena() = default;

  // Room for what `planned` counted.
  static absl::StatusOr<DeviceArena> Like(const DeviceArena& planned) {
    DeviceArena arena;
    auto memory = AllocateDevice(planned.used_);
    if (!memory.ok()) return memory.status();
    arena.memory_ = *std::move(memory);
    arena.places_ = true;
    return arena;
  }

  // `bytes` bytes aligned to 256, which no kernel's widest access or TMA box exceeds.
  void* Take(size_t bytes) {
    const size_t begin = used_;
    used_ += (bytes + kAlign - 1) / kAlign * kAlign;
    if (!places_) return nullptr;
    TANDEM_CHECK_LE(used_, memory_.bytes());
    return memory_.as<unsigned char>() + begin;
  }
  template <typename T>
  T* Take(size_t count) {
    return static_cast<T*>(Take(count * sizeof(T)));
  }

  bool places() const { return places_; }
  size_t used() const { return used_; }
  DeviceMemory Release() && { return std::move(memory_); }

 private:
  static constexpr size_t kAlign = 256;

  DeviceMemory memory_;
  bool places_ = false;
  size_t used_ = 0;
};

}  // namespace tandem::gpu_worker::cuda
