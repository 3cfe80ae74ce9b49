// Tensor maps: what the copy engine of Hopper (TMA) has to know about a tensor in device memory to
// bring boxes of it to shared memory and back. Made on the host, given to a kernel by value as
// `const __grid_constant__ TensorMap`. A map holds the tensor's address: memory that moves needs a
// new map, and a captured graph keeps the one it was captured with.
#pragma once

#include <array>
#include <cstdint>
#include <string>

namespace tandem::gpu_worker::cuda {

// The bits of a CUtensorMap; the emulator keeps a plain struct in them.
struct alignas(128) TensorMap {
  std::array<unsigned char, 128> bytes;
};

// e4m3 are bytes; kWord64: 8 bytes of anything, for boxes wider than 256 values of it.
enum class TensorElement : uint32_t { kByte, kBf16, kF32, kWord64 };
inline int64_t BytesOf(TensorElement element) { return int64_t{1} << static_cast<int>(element); }

inline constexpr int kTensorRankMax = 3;

// A tensor of up to three dimensions, innermost first, and the box that one copy brings. Whatever
// of a box lies outside of the tensor is zero where it is loaded and left out where it is stored.
struct TensorMapSpec {
  TensorElement element = TensorElement::kBf16;
  const void* base = nullptr;                             // multiple of 16 bytes
  int rank = 2;                                           // 2 or 3
  std::array<int64_t, kTensorRankMax> sizes = {1, 1, 1};  // values
  // From one index of dimension 1 (and 2) to the next; multiples of 16. Dimension 0 is dense.
  std::array<int64_t, kTensorRankMax - 1> strides_bytes = {0, 0};
  std::array<uint32_t, kTensorRankMax> box = {1, 1,
                                              1};  // values, at most 256 and the tensor's size
  // 16-byte units of rows of 128 bytes permuted (see hopper.h); the box is then 128 bytes wide.
  bool swizzle_128 = false;
};

// What a map must not be, in one sentence; empty where it is fine. Rules: CUDA driver API,
// cuTensorMapEncodeTiled, and two of our own: a box no larger than its tensor (a larger one has
// been seen to fault), and full rows under a swizzle.
std::string TensorMapProblem(const TensorMapSpec& spec);

// A problem is a bug of the caller's: the process ends with it. Needs a driver (or the emulator).
TensorMap MakeTensorMap(const TensorMapSpec& spec);

}  // namespace tandem::gpu_worker::cuda
