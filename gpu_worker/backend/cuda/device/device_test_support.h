// For tests of kernels: vectors to the device and back.
#pragma once

#include <span>
#include <vector>

#include "gpu_worker/backend/cuda/device/device.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker::cuda {

// One stream, and device memory that holds copies of vectors.
class DeviceForTest {
 public:
  DeviceForTest() {
    TANDEM_CHECK(UseDevice(0).ok());
    stream_ = NewStream();
  }
  Stream stream() const { return stream_.get(); }

  // Memory that lives as long as this, filled from `values`.
  template <typename T>
  T* Upload(const std::vector<T>& values) {
    T* memory = Allocate<T>(values.size());
    CopyToDevice(memory, values.data(), values.size() * sizeof(T), stream());
    Synchronize(stream());
    return memory;
  }

  // `count` values of 0xFF bytes: NaN in f32 and bf16.
  template <typename T>
  T* Allocate(size_t count) {
    auto memory = AllocateDevice(count * sizeof(T));
    TANDEM_CHECK(memory.ok());
    FillBytes(memory->data(), 0xff, memory->bytes(), stream());
    memories_.push_back(*std::move(memory));
    return memories_.back().template as<T>();
  }

  template <typename T>
  std::vector<T> Download(const T* from, size_t count) {
    std::vector<T> values(count);
    CopyToHost(values.data(), from, count * sizeof(T), stream());
    Synchronize(stream());
    return values;
  }

 private:
  OwnedStream stream_;
  std::vector<DeviceMemory> memories_;
};

}  // namespace tandem::gpu_worker::cuda
