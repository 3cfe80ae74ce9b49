// For tests of row kernels: rows of either storage, with padding that must not matter.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "gpu_worker/backend/cuda/device/device_test_support.h"
#include "gpu_worker/backend/cuda/kernels/rows/rows.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker::cuda {

inline constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Rows of `cols` values, `stride` apart, behind `offset` values that make them misaligned; what
// belongs to no row is NaN.
struct TestRows {
  Storage storage;
  int64_t rows, cols, stride, offset = 0;
  std::vector<float> values = {};  // [rows, cols], exact in the storage

  float at(int64_t r, int64_t c) const { return values[r * cols + c]; }
  const float* row(int64_t r) const { return values.data() + r * cols; }
};

inline float InStorage(Storage storage, float value) {
  return storage == Storage::kBf16 ? BF16ToF32(F32ToBF16(value)) : value;
}

// Normally distributed values; `spread` widens their exponents by up to 2^spread.
inline TestRows RandomRows(Storage storage, int64_t rows, int64_t cols, int64_t stride,
                           int64_t offset, std::mt19937& random, int spread = 0) {
  TestRows x{storage, rows, cols, stride, offset};
  std::normal_distribution<float> normal;
  for (int64_t i = 0; i < rows * cols; ++i) {
    const float scale =
        spread == 0 ? 1.0f : std::ldexp(1.0f, static_cast<int>(random() % spread) - spread / 2);
    x.values.push_back(InStorage(storage, normal(random) * scale));
  }
  return x;
}

// The device's bytes of x: [offset + rows * stride] values.
inline std::vector<std::byte> Bytes(const TestRows& x) {
  std::vector<std::byte> bytes((x.offset + x.rows * x.stride) * BytesOf(x.storage),
                               std::byte{0xff});
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t c = 0; c < x.cols; ++c) {
      std::byte* to = bytes.data() + (x.offset + r * x.stride + c) * BytesOf(x.storage);
      const float value = x.at(r, c);
      const uint16_t half = F32ToBF16(value);
      if (x.storage == Storage::kBf16) std::memcpy(to, &half, 2);
      if (x.storage == Storage::kF32) std::memcpy(to, &value, 4);
    }
  }
  return bytes;
}

// Device memory of `x`; the pointer is that of row 0.
inline void* UploadRows(DeviceForTest& device, const TestRows& x) {
  return device.Upload(Bytes(x)) + x.offset * BytesOf(x.storage);
}

// The first `cols` of rows on the device; every other value must still be 0xff bytes.
inline std::vector<float> DownloadRows(DeviceForTest& device, const TestRows& shape,
                                       const void* row0) {
  const int64_t size = BytesOf(shape.storage);
  const auto* begin = static_cast<const std::byte*>(row0) - shape.offset * size;
  const auto bytes = device.Download(begin, (shape.offset + shape.rows * shape.stride) * size);
  std::vector<float> values;
  for (int64_t i = 0; i < shape.offset + shape.rows * shape.stride; ++i) {
    const std::byte* from = bytes.data() + i * size;
    uint32_t bits = 0;
    std::memcpy(&bits, from, size);
    if (i < shape.offset || (i - shape.offset) % shape.stride >= shape.cols) {
      EXPECT_EQ(bits, size == 2 ? 0xffffu : 0xffffffffu) << "value " << i << " was written";
    } else {
      values.push_back(std::bit_cast<float>(size == 2 ? bits << 16 : bits));
    }
  }
  return values;
}

// Room for rows of a shape, poisoned; the pointer is that of row 0.
inline void* AllocateRows(DeviceForTest& device, const TestRows& shape) {
  const int64_t size = BytesOf(shape.storage);
  return device.Allocate<std::byte>((shape.offset + shape.rows * shape.stride) * size) +
         shape.offset * size;
}

// Bit for bit; any NaN equals any other.
inline bool SameBits(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) ||
         std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}
inline void ExpectSameBits(const std::vector<float>& found, const std::vector<float>& expected) {
  ASSERT_EQ(found.size(), expected.size());
  for (size_t i = 0; i < found.size(); ++i) {
    ASSERT_TRUE(SameBits(found[i], expected[i]))
        << "value " << i << ": " << found[i] << ", expected " << expected[i];
  }
}

inline constexpr Storage kStorages[] = {Storage::kBf16, Storage::kF32};

}  // namespace tandem::gpu_worker::cuda
