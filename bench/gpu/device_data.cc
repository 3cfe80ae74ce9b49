#include "bench/gpu/device_data.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "lib/base/check.h"

namespace tandem::bench {
namespace {

constexpr double kCacheMultiple = 3;

float FromBf16(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

// Sign and mantissa from random bits, an exponent from 2^-3 to 2^4 (bf16 exponents have a bias of
// 127).
uint16_t RandomBf16(uint32_t bits) {
  return static_cast<uint16_t>((bits & 0x807f) | (124 + (bits >> 16) % 8) << 7);
}

// e4m3 codes with exponents 2^-3 to 2^4 (bias 7): none is NaN, none is zero.
uint8_t RandomE4m3(uint32_t bits) {
  return static_cast<uint8_t>((bits & 0x87) | (4 + (bits >> 16) % 8) << 3);
}

}  // namespace

uint32_t DeviceData::Random() {  // xorshift64*
  state_ ^= state_ >> 12;
  state_ ^= state_ << 25;
  state_ ^= state_ >> 27;
  return static_cast<uint32_t>(state_ * 0x2545f4914f6cdd1du >> 32);
}

void* DeviceData::Bytes(size_t bytes) {
  auto memory = cuda::AllocateDevice(bytes);
  if (!memory.ok()) base::CheckFailed(__FILE__, __LINE__, std::string(memory.status().message()));
  memories_.push_back(*std::move(memory));
  return memories_.back().data();
}

void* DeviceData::Upload(const void* from, size_t bytes) {
  void* const to = Bytes(bytes);
  cuda::CopyToDevice(to, from, bytes, stream_);
  cuda::Synchronize(stream_);
  return to;
}

uint16_t* DeviceData::Bf16(int64_t count, float scale) {
  std::vector<uint16_t> values(count);
  for (uint16_t& value : values) {
    const float scaled = FromBf16(RandomBf16(Random())) * scale;
    value = static_cast<uint16_t>(std::bit_cast<uint32_t>(scaled) >> 16);
  }
  return static_cast<uint16_t*>(Upload(values.data(), values.size() * sizeof(uint16_t)));
}

float* DeviceData::F32(int64_t count, float scale) {
  std::vector<float> values(count);
  for (float& value : values) value = FromBf16(RandomBf16(Random())) * scale;
  return static_cast<float*>(Upload(values.data(), values.size() * sizeof(float)));
}

int32_t* DeviceData::Int32(const std::vector<int32_t>& values) {
  return static_cast<int32_t*>(Upload(values.data(), values.size() * sizeof(int32_t)));
}

cuda::DeviceMatrix DeviceData::Matrix(const cuda::WeightFormat& format, int64_t outputs,
                                      int64_t inputs, int64_t batch) {
  TANDEM_CHECK(outputs % 64 == 0 && inputs % 128 == 0);
  cuda::DeviceMatrix matrix = cuda::MatrixShape(format, outputs, inputs);
  matrix.batch = batch;
  const float scale = 1.0f / std::sqrt(static_cast<float>(inputs));
  if (format.kind == cuda::WeightKind::kF32) {
    matrix.weights = F32(matrix.weight_bytes * batch / 4, scale);
    return matrix;
  }
  if (format.kind == cuda::WeightKind::kBf16) {
    matrix.weights = Bf16(matrix.weight_bytes * batch / 2, scale);
    return matrix;
  }
  std::vector<uint8_t> codes(matrix.weight_bytes * batch);
  const bool fp8 = format.kind == cuda::WeightKind::kFp8;
  for (uint8_t& code : codes) code = fp8 ? RandomE4m3(Random()) : static_cast<uint8_t>(Random());
  matrix.weights = Upload(codes.data(), codes.size());
  // Integer codes reach 8 or 128, so their scales are smaller by as much.
  const float code_scale = fp8 ? 1.0f : format.kind == cuda::WeightKind::kInt4 ? 0.1f : 0.01f;
  matrix.scales = fp8 ? static_cast<const void*>(F32(matrix.scale_bytes * batch / 4, scale))
                      : Bf16(matrix.scale_bytes * batch / 2, scale * code_scale);
  return matrix;
}

void* DeviceData::Copy(const void* from, size_t bytes) {
  void* const to = Bytes(bytes);
  cuda::CopyOnDevice(to, from, bytes, stream_);
  return to;
}

cuda::DeviceMatrix DeviceData::Copy(const cuda::DeviceMatrix& matrix) {
  cuda::DeviceMatrix copy = matrix;
  copy.weights = Copy(matrix.weights, matrix.weight_bytes * matrix.batch);
  if (matrix.scales != nullptr)
    copy.scales = Copy(matrix.scales, matrix.scale_bytes * matrix.batch);
  return copy;
}

int DeviceData::CopiesFor(double bytes) const {
  const double wanted = kCacheMultiple * static_cast<double>(properties_.l2_bytes) / bytes;
  return std::clamp(static_cast<int>(std::ceil(wanted)), 1, copies_max_);
}

std::vector<float> DeviceData::ReadBf16(const void* from, int64_t count) {
  std::vector<uint16_t> bits(count);
  cuda::CopyToHost(bits.data(), from, bits.size() * sizeof(uint16_t), stream_);
  cuda::Synchronize(stream_);
  std::vector<float> values(count);
  std::transform(bits.begin(), bits.end(), values.begin(), FromBf16);
  return values;
}

std::vector<float> DeviceData::ReadF32(const void* from, int64_t count) {
  std::vector<float> values(count);
  cuda::CopyToHost(values.data(), from, values.size() * sizeof(float), stream_);
  cuda::Synchronize(stream_);
  return values;
}

}  // namespace tandem::bench
