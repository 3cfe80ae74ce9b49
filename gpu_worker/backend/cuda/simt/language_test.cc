// The language of the kernels means the same in the emulator and on a GPU.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>

#include "gpu_worker/backend/cuda/device/device_test_support.h"
#include "gpu_worker/backend/cuda/simt/language_test_kernels.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker::cuda {
namespace {

using namespace language_test;

TEST(Language, BlockSumsAreThoseOfTheButterfly) {
  DeviceForTest device;
  std::vector<float> in(3 * 256);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i % 97) - 48.0f;  // sums exact
  float* const sums = device.Allocate<float>(3);
  BlockSums(device.Upload(in), sums, 3, device.stream());
  const std::vector<float> found = device.Download(sums, 3);
  for (int b = 0; b < 3; ++b) {
    float expected = 0;
    for (int i = 0; i < 256; ++i) expected += in[b * 256 + i];
    EXPECT_EQ(found[b], expected) << b;
  }
}

// Small integers: exact in bf16, in the products and in the sums, whatever a tensor core's order.
TEST(Language, OneMmaIsTheProduct) {
  DeviceForTest device;
  std::mt19937 random(1);
  std::vector<uint16_t> a(256), b(128), b_kn(128);
  for (auto& v : a) v = F32ToBF16(static_cast<float>(static_cast<int>(random() % 17) - 8));
  for (auto& v : b) v = F32ToBF16(static_cast<float>(static_cast<int>(random() % 17) - 8));
  for (int n = 0; n < 8; ++n) {
    for (int k = 0; k < 16; ++k) b_kn[k * 8 + n] = b[n * 16 + k];
  }
  float* const plain = device.Allocate<float>(128);
  float* const transposed = device.Allocate<float>(128);
  OneMma(device.Upload(a), device.Upload(b), plain, device.stream());
  OneMmaTransposed(device.Upload(a), device.Upload(b_kn), transposed, device.stream());
  const auto d = device.Download(plain, 128), dt = device.Download(transposed, 128);
  for (int row = 0; row < 16; ++row) {
    for (int n = 0; n < 8; ++n) {
      float expected = 0;
      for (int k = 0; k < 16; ++k)
        expected += BF16ToF32(a[row * 16 + k]) * BF16ToF32(b[n * 16 + k]);
      EXPECT_EQ(d[row * 8 + n], expected) << row << " " << n;
      EXPECT_EQ(dt[row * 8 + n], expected) << row << " " << n;
    }
  }
}

TEST(Language, AsyncCopiesArriveAndInvalidOnesAreZero) {
  DeviceForTest device;
  std::vector<float> in(200);
  for (size_t i = 0; i < in.size(); ++i) in[i] = static_cast<float>(i) + 0.5f;
  float* const out = device.Allocate<float>(200);
  CopyThroughShared(device.Upload(in), out, 200, 160, device.stream());
  const auto found = device.Download(out, 200);
  for (int i = 0; i < 200; ++i) EXPECT_EQ(found[i], i < 160 ? in[i] : 0.0f) << i;
}

TEST(Language, EveryE4m3CodeIsThatOfTheCodec) {
  DeviceForTest device;
  float* const values = device.Allocate<float>(256);
  uint8_t* const back = device.Allocate<uint8_t>(256);
  E4m3Codes(values, back, device.stream());
  const auto v = device.Download(values, 256);
  const auto b = device.Download(back, 256);
  for (int code = 0; code < 256; ++code) {
    const float expected = F8E4M3ToF32(static_cast<uint8_t>(code));
    if (std::isnan(expected)) {
      EXPECT_TRUE(std::isnan(v[code])) << code;
      continue;
    }
    EXPECT_EQ(v[code], expected) << code;
    EXPECT_EQ(std::signbit(v[code]), std::signbit(expected)) << code;
    EXPECT_EQ(b[code], code);
  }
}

// All bf16 numbers, and the neighbours of every rounding boundary of e4m3.
TEST(Language, RoundingIsThatOfTheCodec) {
  DeviceForTest device;
  std::vector<float> in;
  for (uint32_t bits = 0; bits < 65536; ++bits)
    in.push_back(BF16ToF32(static_cast<uint16_t>(bits)));
  for (int code = 0; code < 126; ++code) {
    const float middle =
        (F8E4M3ToF32(static_cast<uint8_t>(code)) + F8E4M3ToF32(static_cast<uint8_t>(code + 1))) / 2;
    for (const float v : {std::nextafter(middle, 0.0f), middle, std::nextafter(middle, 1e9f)}) {
      in.push_back(v);
      in.push_back(-v);
    }
  }
  std::mt19937 random(2);
  for (int i = 0; i < 20000; ++i) {
    const uint32_t bits = random();
    float value;
    std::memcpy(&value, &bits, sizeof(value));
    in.push_back(value);
  }
  const int count = static_cast<int>(in.size());
  float* const values = device.Upload(in);
  uint8_t* const e4m3 = device.Allocate<uint8_t>(count);
  uint16_t* const bf16 = device.Allocate<uint16_t>(count);
  ToE4m3All(values, e4m3, count, device.stream());
  ToBf16All(values, bf16, count, device.stream());
  const auto codes = device.Download(e4m3, count);
  const auto halves = device.Download(bf16, count);
  for (int i = 0; i < count; ++i) {
    if (std::isnan(in[i])) {
      EXPECT_EQ(codes[i] & 0x7f, 0x7f);
      EXPECT_TRUE(std::isnan(BF16ToF32(halves[i])));
      continue;
    }
    ASSERT_EQ(codes[i], F32ToF8E4M3(in[i])) << in[i];
    ASSERT_EQ(halves[i], F32ToBF16(in[i])) << in[i];
  }
}

// Random bits but NaN and infinities, and products that are subnormal; against long double, which
// holds a product and, for these exponents, the sum.
TEST(Language, PairsOfBf16AreMultipliedAndRoundedOnce) {
  DeviceForTest device;
  std::mt19937 random(3);
  std::vector<uint32_t> a, b, c;
  const auto number = [&](uint32_t exponent_min, uint32_t exponents) {
    const uint32_t exponent = exponent_min + random() % exponents;
    return (random() & 0x807fu) | exponent << 7;
  };
  for (int i = 0; i < 4000; ++i) {
    const bool small = i % 4 == 0;  // around 2^-126
    const auto pair = [&](uint32_t from) { return number(from, 9) << 16 | number(from, 9); };
    a.push_back(pair(123));
    b.push_back(pair(small ? 0 : 120));
    c.push_back(i % 3 == 0 ? 0x80008000u : pair(small ? 0 : 118));
  }
  const int count = static_cast<int>(a.size());
  uint32_t* const out = device.Allocate<uint32_t>(count);
  FmaBf16x2All(device.Upload(a), device.Upload(b), device.Upload(c), out, count, device.stream());
  const auto found = device.Download(out, count);
  for (int i = 0; i < count; ++i) {
    for (int half = 0; half < 2; ++half) {
      const auto value = [&](const std::vector<uint32_t>& words) {
        return static_cast<long double>(BF16ToF32(static_cast<uint16_t>(words[i] >> 16 * half)));
      };
      const long double exact = value(a) * value(b) + value(c);
      // The nearest of the result and its neighbours, which differ by one in their bits.
      const auto bits = static_cast<uint16_t>(found[i] >> 16 * half);
      const long double error = std::fabs(BF16ToF32(bits) - exact);
      for (const int step : {-1, 1}) {
        if ((bits & 0x7fff) == 0 && step < 0) continue;
        const auto other = static_cast<uint16_t>(bits + step);
        const long double others = std::fabs(BF16ToF32(other) - exact);
        ASSERT_TRUE(error < others || (error == others && bits % 2 == 0)) << i << " " << half;
      }
    }
  }
}

TEST(Language, IntegerProductsAreExact) {
  DeviceForTest device;
  std::mt19937 random(6);
  for (const int depth : {16, 32}) {
    std::vector<uint8_t> a(16 * depth);
    std::vector<int8_t> b(8 * depth);
    for (auto& v : a) v = static_cast<uint8_t>(random());
    for (auto& v : b) v = static_cast<int8_t>(random());
    int32_t* const d = device.Allocate<int32_t>(128);
    OneIntegerMma(device.Upload(a), device.Upload(b), depth, d, device.stream());
    std::vector<int32_t> expected(128, 0);
    for (int i = 0; i < 128; ++i) {
      for (int k = 0; k < depth; ++k) expected[i] += a[i / 8 * depth + k] * b[i % 8 * depth + k];
    }
    EXPECT_EQ(device.Download(d, 128), expected);
  }
}

TEST(Language, SubnormalNumbersAreFlushed) {
  DeviceForTest device;
  const float tiny = 0x1p-130f, least = 0x1p-126f;
  const std::vector<float> a = {tiny, -tiny, 0x1p-70f, -0x1p-70f, least, 1.5f, least};
  const std::vector<float> b = {0x1p20f, 1.0f, 0x1p-70f, 0x1p-70f, 1.0f, 2.0f, 1.5f};
  const std::vector<float> c = {1.0f, -0.0f, 0.0f, -0.0f, -1.5f * least, tiny, -least};
  float* const fused = device.Allocate<float>(a.size());
  float* const sum = device.Allocate<float>(a.size());
  Flushes(device.Upload(a), device.Upload(b), device.Upload(c), fused, sum,
          static_cast<int>(a.size()), device.stream());
  const auto bits = [](const std::vector<float>& values) {
    std::vector<uint32_t> result(values.size());
    std::memcpy(result.data(), values.data(), values.size() * sizeof(float));
    return result;
  };
  EXPECT_EQ(bits(device.Download(fused, a.size())),
            bits({1.0f, -0.0f, 0.0f, -0.0f, -0.0f, 3.0f, 0.0f}));
  EXPECT_EQ(bits(device.Download(sum, a.size())),
            bits({1.0f, -0.0f, 0x1p-70f, -0x1p-70f, -0.0f, 1.5f, 0.0f}));
}

TEST(Language, EveryF16Code) {
  DeviceForTest device;
  float* const out = device.Allocate<float>(65536);
  F16Codes(out, device.stream());
  const std::vector<float> values = device.Download(out, 65536);
  for (int i = 0; i < 65536; ++i) {
    const float expected = F16ToF32(static_cast<uint16_t>(i));
    if (std::isnan(expected)) {
      ASSERT_TRUE(std::isnan(values[i])) << i;
    } else {
      ASSERT_EQ(std::memcmp(&values[i], &expected, sizeof(float)), 0) << i;
    }
  }
}

TEST(Language, ShufflesAndVotes) {
  DeviceForTest device;
  int* const up = device.Allocate<int>(32);
  int* const down = device.Allocate<int>(32);
  int* const exclusive_or = device.Allocate<int>(32);
  int* const first = device.Allocate<int>(32);
  uint32_t* const odd = device.Allocate<uint32_t>(32);
  Shuffles(up, down, exclusive_or, first, odd, device.stream());
  const auto u = device.Download(up, 32), d = device.Download(down, 32);
  const auto x = device.Download(exclusive_or, 32), f = device.Download(first, 32);
  const auto o = device.Download(odd, 32);
  for (int lane = 0; lane < 32; ++lane) {
    EXPECT_EQ(u[lane], lane >= 3 ? lane - 3 : lane);
    EXPECT_EQ(d[lane], lane + 5 < 32 ? lane + 5 : lane);
    EXPECT_EQ(x[lane], lane ^ 9);
    EXPECT_EQ(f[lane], lane / 8 * 8 + 2);
    EXPECT_EQ(o[lane], 0xaaaaaaaau);
  }
}

TEST(Language, LargestAndSmallestOfAWarp) {
  DeviceForTest device;
  std::vector<uint32_t> in(32);
  std::mt19937 random(3);
  for (auto& v : in) v = random();
  uint32_t* const largest = device.Allocate<uint32_t>(32);
  uint32_t* const smallest = device.Allocate<uint32_t>(32);
  Reduces(device.Upload(in), largest, smallest, device.stream());
  EXPECT_EQ(device.Download(largest, 32),
            std::vector<uint32_t>(32, *std::max_element(in.begin(), in.end())));
  EXPECT_EQ(device.Download(smallest, 32),
            std::vector<uint32_t>(32, *std::min_element(in.begin(), in.end())));
}

TEST(Language, AtomicSumsLoseNothing) {
  DeviceForTest device;
  std::mt19937 random(21);
  std::vector<uint32_t> in(256);
  unsigned narrow = 3;
  int signed_narrow = 4;
  unsigned long long wide = 5;
  auto* const on_device = device.Upload(std::vector<unsigned>{narrow});
  auto* const signed_on_device = device.Upload(std::vector<int>{signed_narrow});
  auto* const wide_on_device = device.Upload(std::vector<unsigned long long>{wide});
  for (uint32_t& v : in) {
    v = random() % (1u << 22);
    narrow += v;
    signed_narrow -= static_cast<int>(v);
    wide += static_cast<unsigned long long>(v) * v;
  }
  AtomicSums(device.Upload(in), 256, on_device, signed_on_device, wide_on_device, device.stream());
  EXPECT_EQ(device.Download(on_device, 1)[0], narrow);
  EXPECT_EQ(device.Download(signed_on_device, 1)[0], signed_narrow);
  EXPECT_EQ(device.Download(wide_on_device, 1)[0], wide);
}

TEST(Language, RoundedProductsAreNotFused) {
  DeviceForTest device;
  std::mt19937 random(4);
  std::uniform_real_distribution<float> uniform(-1, 1);
  const int count = 256;
  std::vector<float> a(count), b(count), c(count), product(count);
  int differs = 0;
  for (int i = 0; i < count; ++i) {
    a[i] = uniform(random), b[i] = uniform(random);
    product[i] = a[i] * b[i];
    c[i] = -product[i];  // fused, the sum is the product's rounding error
    differs += std::fma(a[i], b[i], c[i]) != 0.0f;
  }
  ASSERT_GT(differs, count / 2);
  float* const plus = device.Allocate<float>(count);
  float* const minus = device.Allocate<float>(count);
  Unfused(device.Upload(a), device.Upload(b), device.Upload(c), plus, minus, count,
          device.stream());
  EXPECT_EQ(device.Download(plus, count), std::vector<float>(count, 0.0f));
  const auto found = device.Download(minus, count);
  for (int i = 0; i < count; ++i) EXPECT_EQ(found[i], product[i] + product[i]);
}

TEST(Language, SixteenBytesAtATime) {
  DeviceForTest device;
  std::vector<uint32_t> in(4 * 40), out(in.size()), halves(in.size() / 2);
  for (size_t i = 0; i < in.size(); ++i) {
    in[i] = static_cast<uint32_t>(7 * i);
    out[i] = in[i] + 1;
    if (i % 4 >= 2) halves[i / 4 * 2 + i % 2] = in[i];
  }
  uint32_t* const words = device.Allocate<uint32_t>(in.size());
  uint32_t* const pairs = device.Allocate<uint32_t>(halves.size());
  Vectors16(device.Upload(in), words, pairs, 40, device.stream());
  EXPECT_EQ(device.Download(words, in.size()), out);
  EXPECT_EQ(device.Download(pairs, halves.size()), halves);
}

TEST(Language, AGraphDoesItsLaunchesAgain) {
  DeviceForTest device;
  std::vector<float> in(256, 1.0f);
  float* const memory = device.Upload(in);
  float* const sums = device.Allocate<float>(1);
  BeginCapture(device.stream());
  BlockSums(memory, sums, 1, device.stream());
  const ExecutableGraph graph = EndCapture(device.stream());
  EXPECT_TRUE(std::isnan(device.Download(sums, 1)[0]));  // captured, not run
  LaunchGraph(graph, device.stream());
  EXPECT_EQ(device.Download(sums, 1)[0], 256.0f);
  in.assign(256, 2.0f);
  CopyToDevice(memory, in.data(), in.size() * sizeof(float), device.stream());
  LaunchGraph(graph, device.stream());
  EXPECT_EQ(device.Download(sums, 1)[0], 512.0f);
}

TEST(Device, TooMuchMemoryIsAnError) {
  DeviceForTest device;
  const auto memory = AllocateDevice(size_t{1} << 50);
  EXPECT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(Device, AnUnknownDeviceIsAnError) {
  EXPECT_EQ(UseDevice(1000).status().code(), absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
