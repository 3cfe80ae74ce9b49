// What kernels are timed on: device memory that lives as long as the benchmark of one shape, filled
// with random values. Never zeros: a GPU multiplies zeros faster than data.
#pragma once

#include <cstdint>
#include <vector>

#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/cuda/kernels/linear/linear.h"

namespace tandem::bench {

namespace cuda = tandem::gpu_worker::cuda;

class DeviceData {
 public:
  // `properties` of the device in use. Copies run on `stream`. CopiesFor never gives more than
  // `copies_max`.
  DeviceData(const cuda::DeviceProperties& properties, cuda::Stream stream, uint64_t seed,
             int copies_max)
      : properties_(properties), stream_(stream), state_(seed), copies_max_(copies_max) {}

  const cuda::DeviceProperties& properties() const { return properties_; }
  cuda::Stream stream() const { return stream_; }

  // Uninitialized; ends the process with what was wanted and found when there is no room.
  void* Bytes(size_t bytes);
  // bf16 values of magnitude 2^-3 to 2^4 times `scale`, both signs.
  uint16_t* Bf16(int64_t count, float scale = 1.0f);
  float* F32(int64_t count, float scale = 1.0f);
  // Another buffer with the same content.
  void* Copy(const void* from, size_t bytes);
  int32_t* Int32(const std::vector<int32_t>& values);
  // A matrix of `format` whose weights and scales are random; all bytes are valid codes. Outputs
  // must be a multiple of 64 and inputs one of 128, or the padding would not be zero.
  cuda::DeviceMatrix Matrix(const cuda::WeightFormat& format, int64_t outputs, int64_t inputs,
                            int64_t batch = 1);
  cuda::DeviceMatrix Copy(const cuda::DeviceMatrix& matrix);

  // How many buffers of `bytes` launches must take turns with so that none is found in the L2
  // cache: three times its size, and at least one.
  int CopiesFor(double bytes) const;

  // Device values as f32 on the host; waits for the stream.
  std::vector<float> ReadBf16(const void* from, int64_t count);
  std::vector<float> ReadF32(const void* from, int64_t count);

 private:
  uint32_t Random();
  void* Upload(const void* from, size_t bytes);

  const cuda::DeviceProperties properties_;
  const cuda::Stream stream_;
  uint64_t state_;
  const int copies_max_;
  std::vector<cuda::DeviceMemory> memories_;
};

}  // namespace tandem::bench
