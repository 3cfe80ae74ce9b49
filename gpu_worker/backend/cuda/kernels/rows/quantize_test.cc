// fp8 rows: the bits of lib/kernels, and fused kernels the bits of the two they replace.
#include <gtest/gtest.h>

#include <cmath>

#include "gpu_worker/backend/cuda/kernels/rows/rows_test_support.h"
#include "lib/kernels/fp8_linear.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr Storage kBf16 = Storage::kBf16;
constexpr int64_t kWidths[] = {1, 100, 128, 129, 512, 1030, 2049, 8300};

struct Quantized {
  std::vector<uint8_t> codes;
  std::vector<float> scales;
};

// Where a kernel writes; `Take` also sees that nothing behind the rows was touched.
struct Target {
  int64_t rows, runs;
  uint8_t* codes;
  float* scales;

  Target(DeviceForTest& device, int64_t rows_in, int64_t cols)
      : rows(rows_in),
        runs((cols + 127) / 128),
        codes(device.Allocate<uint8_t>(rows * runs * 128 + 8)),
        scales(device.Allocate<float>(rows * runs + 1)) {}

  Quantized Take(DeviceForTest& device) const {
    Quantized q{device.Download(codes, rows * runs * 128 + 8),
                device.Download(scales, rows * runs + 1)};
    for (int i = 0; i < 8; ++i) EXPECT_EQ(q.codes[rows * runs * 128 + i], 0xff);
    EXPECT_TRUE(std::isnan(q.scales.back()));
    q.codes.resize(rows * runs * 128);
    q.scales.pop_back();
    return q;
  }
};

void ExpectEqual(const Quantized& found, const Quantized& expected) {
  ASSERT_EQ(found.codes, expected.codes);
  ExpectSameBits(found.scales, expected.scales);
}

Quantized OnHost(const TestRows& x) {
  const int64_t runs = kernels::Fp8Blocks(x.cols);
  Quantized q{std::vector<uint8_t>(x.rows * runs * 128, 0), std::vector<float>(x.rows * runs)};
  std::vector<uint16_t> numbers(x.cols);
  for (int64_t r = 0; r < x.rows; ++r) {
    kernels::QuantizeFp8Inputs(x.row(r), x.cols, numbers.data(), q.scales.data() + r * runs);
    for (int64_t c = 0; c < x.cols; ++c) {
      q.codes[r * runs * 128 + c] = F32ToF8E4M3(BF16ToF32(numbers[c]));  // exact
    }
  }
  return q;
}

Quantized OnDevice(const TestRows& x) {
  DeviceForTest device;
  const Target target(device, x.rows, x.cols);
  QuantizeFp8Rows(static_cast<const uint16_t*>(UploadRows(device, x)), x.stride, x.cols, x.rows,
                  target.codes, target.scales, device.stream());
  return target.Take(device);
}

TEST(QuantizeFp8Rows, HasTheBitsOfTheHost) {
  std::mt19937 random(1);
  for (const int64_t cols : kWidths) {
    for (const int64_t pad : {0, 3, 8}) {
      TestRows x = RandomRows(kBf16, 3, cols, cols + pad, pad, random, 20);
      for (int64_t c = 0; c < cols; c += 5) x.values[c] = -0.0f;
      ExpectEqual(OnDevice(x), OnHost(x));
    }
  }
}

// A run each of zeros, of numbers too small for a scale, around the smallest scale, infinite, NaN,
// and the largest numbers.
TEST(QuantizeFp8Rows, EdgesOfTheFormat) {
  std::mt19937 random(2);
  TestRows x = RandomRows(kBf16, 1, 7 * 128, 7 * 128, 0, random);
  for (int64_t c = 0; c < 128; ++c) {
    float* const v = x.values.data() + c;
    v[0] = c % 2 == 0 ? 0.0f : -0.0f;
    v[128] *= std::ldexp(1.0f, -130);
    v[256] = InStorage(kBf16, v[256] * std::ldexp(1.0f, -118));
    v[768] = InStorage(kBf16, v[768] * std::ldexp(1.0f, 125));
  }
  x.values[128 * 3 + 5] = -std::numeric_limits<float>::infinity();
  x.values[128 * 4 + 127] = kNan;
  ExpectEqual(OnDevice(x), OnHost(x));
}

// Every bf16 number next to a largest one of 448: scale 1, so each is rounded as it is.
TEST(QuantizeFp8Rows, EveryBf16Number) {
  TestRows x{kBf16, 1, 0, 0};
  for (uint32_t bits = 0; bits < 65536; ++bits) {
    const float value = BF16ToF32(static_cast<uint16_t>(bits));
    if (!(std::abs(value) <= 448)) continue;
    if (x.values.size() % 128 == 0) x.values.push_back(448.0f);
    x.values.push_back(value);
  }
  x.cols = x.stride = static_cast<int64_t>(x.values.size());
  ExpectEqual(OnDevice(x), OnHost(x));
}

TEST(QuantizeFp8Rows, ARowAloneHasTheSameBitsAndNoRowsAreNoWork) {
  std::mt19937 random(3);
  const TestRows x = RandomRows(kBf16, 5, 300, 301, 1, random);
  const Quantized all = OnDevice(x);
  TestRows alone{kBf16, 1, 300, 300, 0, {x.row(3), x.row(3) + 300}};
  ExpectEqual(OnDevice(alone), {{all.codes.begin() + 3 * 384, all.codes.begin() + 4 * 384},
                                {all.scales.begin() + 9, all.scales.begin() + 12}});
  alone.rows = 0;
  alone.values.clear();
  EXPECT_TRUE(OnDevice(alone).codes.empty());
}

TEST(RmsNormFp8, HasTheBitsOfNormAndQuantization) {
  std::mt19937 random(4);
  std::uniform_real_distribution<float> uniform(-2, 2);
  for (const int64_t cols : kWidths) {
    const TestRows x = RandomRows(kBf16, 5, cols, cols + 2, 1, random, 8);
    const TestRows shape{kBf16, 3, cols, cols + 1, 2};
    std::vector<float> weight(cols);
    for (float& w : weight) w = uniform(random);
    DeviceForTest device;
    RmsNormArgs args;
    args.x = UploadRows(device, x);
    args.x_stride = x.stride;
    args.weight = device.Upload(weight);
    args.eps = 1e-6f;
    args.cols = cols;
    args.rows = 3;
    args.out_stride = shape.stride;
    args.row_ids = device.Upload(std::vector<uint32_t>{4, 0, 2});
    args.out = AllocateRows(device, shape);
    RmsNorm(args, device.stream());
    const std::vector<float> normed = DownloadRows(device, shape, args.out);
    const Target two_steps(device, 3, cols), fused(device, 3, cols), without_rows(device, 3, cols);
    QuantizeFp8Rows(static_cast<const uint16_t*>(args.out), shape.stride, cols, 3, two_steps.codes,
                    two_steps.scales, device.stream());
    args.out = AllocateRows(device, shape);
    RmsNormFp8(args, fused.codes, fused.scales, device.stream());
    ExpectSameBits(DownloadRows(device, shape, args.out), normed);
    const Quantized expected = two_steps.Take(device);
    ExpectEqual(fused.Take(device), expected);
    args.out = nullptr;
    RmsNormFp8(args, without_rows.codes, without_rows.scales, device.stream());
    ExpectEqual(without_rows.Take(device), expected);
  }
}

TEST(SwiGluFp8, HasTheBitsOfGateAndQuantization) {
  std::mt19937 random(5);
  for (const int64_t cols : kWidths) {
    // Gate and up side by side, as one product leaves them.
    TestRows both = RandomRows(kBf16, 3, 2 * cols, 2 * cols + 3, 1, random, 8);
    both.values[2 * cols + cols / 2] = kNan;  // in row 1
    DeviceForTest device;
    const auto* const memory = static_cast<const uint16_t*>(UploadRows(device, both));
    const Target fused(device, 3, cols), two_steps(device, 3, cols);
    SwiGluFp8(memory, memory + cols, both.stride, cols, 3, fused.codes, fused.scales,
              device.stream());
    auto* const gated = static_cast<uint16_t*>(AllocateRows(device, {kBf16, 3, cols, cols}));
    SwiGlu({kBf16, memory, memory + cols, both.stride, cols, 3, gated, cols}, device.stream());
    QuantizeFp8Rows(gated, cols, cols, 3, two_steps.codes, two_steps.scales, device.stream());
    ExpectEqual(fused.Take(device), two_steps.Take(device));
  }
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
