// Weights lie where pack.h says, each place once, byte for byte as lib/kernels quantizes and packs.
#include "gpu_worker/backend/cuda/kernels/linear/pack.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <random>
#include <string>

#include "gpu_worker/backend/cuda/kernels/linear/linear_problem.h"
#include "lib/kernels/fp8_linear.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr WeightFormat kInts[] = {{WeightKind::kInt8, 128},
                                  {WeightKind::kInt8, 64},
                                  {WeightKind::kInt4, 128},
                                  {WeightKind::kInt4, 64}};

struct Shape {
  int64_t outputs, inputs;
};
constexpr Shape kShapes[] = {{1, 1}, {64, 128}, {70, 200}, {192, 300}, {576, 130}, {129, 512}};

kernels::MarlinForm FormOf(const WeightFormat& format) {
  return {format.kind == WeightKind::kInt8 ? 8 : 4, format.group};
}

std::vector<float> RandomWeights(const Shape& shape, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> weights(shape.outputs * shape.inputs);
  for (float& w : weights) w = normal(random);
  return weights;
}

absl::StatusOr<PackedMatrix> Pack(const WeightFormat& format, const Shape& shape,
                                  const std::vector<float>& weights) {
  return PackMatrix(format, shape.outputs, shape.inputs, [&](int64_t i, float* dst) {
    std::memcpy(dst, &weights[i * shape.inputs], shape.inputs * sizeof(float));
  });
}

template <typename T>
std::vector<T> As(const std::vector<std::byte>& bytes) {
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

// Every place of k_padded x n_padded is taken once.
void ExpectBijective(int64_t k_padded, int64_t n_padded, int64_t places,
                     const std::function<int64_t(int64_t, int64_t)>& place) {
  std::vector<int> taken(places);
  for (int64_t n = 0; n < n_padded; ++n) {
    for (int64_t k = 0; k < k_padded; ++k) {
      const int64_t at = place(k, n);
      ASSERT_TRUE(at >= 0 && at < places) << k << " " << n;
      ASSERT_EQ(taken[at]++, 0) << k << " " << n;
    }
  }
  for (const int count : taken) ASSERT_EQ(count, 1);
}

TEST(LinearPack, EveryPlaceIsTakenOnce) {
  for (const auto& [n, k] : {Shape{64, 128}, {192, 128}, {128, 384}, {320, 256}}) {
    ExpectBijective(k, n, k * n, [n = n](int64_t a, int64_t b) { return Bf16Place(a, b, n); });
    ExpectBijective(k, n, k * n, [n = n](int64_t a, int64_t b) { return Fp8Place(a, b, n); });
    ExpectBijective(k, n, k * n, [k = k](int64_t a, int64_t b) { return F32Place(a, b, k); });
    for (const int bits : {4, 8}) {
      ExpectBijective(k, n, k * n, [n = n, bits](int64_t a, int64_t b) {
        const kernels::MarlinPlace place = kernels::MarlinCodePlace(bits, a, b, n);
        return place.word * (32 / bits) + place.shift / bits;
      });
    }
    for (const int group : {64, 128}) {
      ExpectBijective(k / group, n, k / group * n, [&, n = n, k = k](int64_t g, int64_t b) {
        return GroupScalePlace(group, g * group, b, k, n);
      });
    }
  }
}

// What makes the bf16 and fp8 tiles readable by ldmatrix and wgmma: 8 outputs by 16 bytes are 128
// contiguous bytes, the row of an output 16 of them.
TEST(LinearPack, CoreMatricesAreContiguous) {
  constexpr int64_t kN = 192;
  for (int64_t n = 0; n < kN; ++n) {
    for (int64_t k = 0; k < 128; ++k) {
      const int64_t tile = (k / 16 * (kN / 64) + n / 64);
      EXPECT_EQ(Bf16Place(k, n, kN) * 2,
                tile * 2048 + n % 64 / 8 * 256 + k % 16 / 8 * 128 + n % 8 * 16 + k % 8 * 2);
      EXPECT_EQ(Fp8Place(k, n, kN), tile * 1024 + n % 64 / 8 * 128 + n % 8 * 16 + k % 16);
    }
  }
}

TEST(LinearPack, SizesAreThoseOfTheShape) {
  for (const WeightFormat& format : kEveryFormat) {
    for (const Shape& shape : kShapes) {
      const auto packed = Pack(format, shape, RandomWeights(shape, 1));
      ASSERT_TRUE(packed.ok()) << packed.status();
      const DeviceMatrix planned = MatrixShape(format, shape.outputs, shape.inputs);
      EXPECT_EQ(static_cast<int64_t>(packed->weights.size()), planned.weight_bytes);
      EXPECT_EQ(static_cast<int64_t>(packed->scales.size()), planned.scale_bytes);
      EXPECT_EQ(planned.weight_bytes % 16, 0);
    }
  }
  // DeepSeek-V3's down projection: no padding at all.
  EXPECT_EQ(MatrixShape({WeightKind::kBf16}, 7168, 18432).weight_bytes, 7168 * 18432 * 2);
  EXPECT_EQ(MatrixShape({WeightKind::kFp8}, 7168, 18432).scale_bytes, 56 * 144 * 4);
  EXPECT_EQ(MatrixShape({WeightKind::kInt4, 64}, 7168, 18432).weight_bytes, 7168 * 18432 / 2);
  EXPECT_EQ(MatrixShape({WeightKind::kInt4, 64}, 7168, 18432).scale_bytes, 7168 * 288 * 2);
}

TEST(LinearPack, IntsAreByteForByteThoseOfPackMarlin) {
  for (const WeightFormat& format : kInts) {
    const kernels::MarlinForm form = FormOf(format);
    for (const Shape& shape : kShapes) {
      const std::vector<float> weights = RandomWeights(shape, 2);
      std::vector<uint8_t> codes(weights.size());
      std::vector<uint16_t> scales(shape.outputs * form.Groups(shape.inputs));
      for (int64_t n = 0; n < shape.outputs; ++n) {
        kernels::QuantizeMarlinRow(form, &weights[n * shape.inputs], shape.inputs,
                                   &codes[n * shape.inputs],
                                   &scales[n * form.Groups(shape.inputs)]);
      }
      const kernels::MarlinPacked want =
          kernels::PackMarlin(form, codes, scales, shape.outputs, shape.inputs);
      const auto packed = Pack(format, shape, weights);
      ASSERT_TRUE(packed.ok()) << packed.status();
      EXPECT_EQ(As<uint32_t>(packed->weights), want.words);
      EXPECT_EQ(As<uint16_t>(packed->scales), want.scales);
    }
  }
}

TEST(LinearPack, Fp8IsByteForByteThatOfTheHostAndComesBack) {
  for (const Shape& shape : kShapes) {
    const std::vector<float> weights = RandomWeights(shape, 3);
    const int64_t row_bytes = kernels::Fp8RowBytes(shape.inputs);
    const int64_t blocks = kernels::Fp8Blocks(shape.inputs);
    std::vector<uint8_t> padded(RoundUpTo(shape.outputs, 128) * row_bytes), codes;
    std::vector<float> scales(kernels::Fp8Blocks(shape.outputs) * blocks);
    for (int64_t n = 0; n < shape.outputs; n += 128) {
      kernels::QuantizeFp8Weights(&weights[n * shape.inputs],
                                  std::min<int64_t>(128, shape.outputs - n), shape.inputs,
                                  &padded[n * row_bytes], &scales[n / 128 * blocks]);
    }
    for (int64_t n = 0; n < shape.outputs; ++n) {
      codes.insert(codes.end(), &padded[n * row_bytes], &padded[n * row_bytes + shape.inputs]);
    }
    const auto packed = Pack({WeightKind::kFp8}, shape, weights);
    const auto taken = PackFp8(shape.outputs, shape.inputs, codes.data(), scales.data());
    ASSERT_TRUE(packed.ok() && taken.ok());
    EXPECT_EQ(packed->weights, taken->weights);
    EXPECT_EQ(packed->scales, taken->scales);
    EXPECT_EQ(As<float>(packed->scales), scales);
    const int64_t n_padded = RoundUpTo(shape.outputs, 64);
    const auto bytes = As<uint8_t>(packed->weights);
    for (int64_t n = 0; n < n_padded; ++n) {
      for (int64_t k = 0; k < RoundUpTo(shape.inputs, 128); ++k) {
        const bool inside = n < shape.outputs && k < shape.inputs;
        ASSERT_EQ(bytes[Fp8Place(k, n, n_padded)], inside ? codes[n * shape.inputs + k] : 0);
      }
    }
  }
}

TEST(LinearPack, FloatsComeBackAndPaddingIsZero) {
  for (const Shape& shape : kShapes) {
    const std::vector<float> weights = RandomWeights(shape, 4);
    const auto f32 = Pack({WeightKind::kF32}, shape, weights);
    const auto bf16 = Pack({WeightKind::kBf16}, shape, weights);
    ASSERT_TRUE(f32.ok() && bf16.ok());
    const auto floats = As<float>(f32->weights);
    const auto halves = As<uint16_t>(bf16->weights);
    const int64_t k_padded = RoundUpTo(shape.inputs, 128);
    const int64_t n_padded = RoundUpTo(shape.outputs, 64);
    for (int64_t n = 0; n < n_padded; ++n) {
      for (int64_t k = 0; k < k_padded; ++k) {
        const bool inside = n < shape.outputs && k < shape.inputs;
        const float w = inside ? weights[n * shape.inputs + k] : 0.0f;
        ASSERT_EQ(floats[F32Place(k, n, k_padded)], w);
        ASSERT_EQ(halves[Bf16Place(k, n, n_padded)], F32ToBF16(w));
      }
    }
  }
}

// Two matrices behind one another are what one matrix of their rows is, with rows of zeros between.
TEST(LinearPack, StackedMatricesAreOneOfTheirRows) {
  for (const WeightFormat& format : kEveryFormat) {
    for (const int64_t first : {1, 128, 200}) {
      for (const Shape& shape : {Shape{70, 200}, {192, 130}}) {
        const Shape of_first = {first, shape.inputs};
        const int64_t begin = RoundUpTo(first, kStackMultiple);
        const std::vector<float> a = RandomWeights(of_first, 6), b = RandomWeights(shape, 7);
        std::vector<float> all = a;
        all.resize(begin * shape.inputs, 0.0f);
        all.insert(all.end(), b.begin(), b.end());
        const auto expected = Pack(format, {begin + shape.outputs, shape.inputs}, all);
        const PackedMatrix found =
            StackOutputs(Pack(format, of_first, a).value(), Pack(format, shape, b).value(), begin);
        ASSERT_TRUE(expected.ok());
        EXPECT_EQ(found.shape.outputs, expected->shape.outputs);
        EXPECT_TRUE(found.weights == expected->weights) << static_cast<int>(format.kind);
        EXPECT_TRUE(found.scales == expected->scales) << static_cast<int>(format.kind);
      }
    }
  }
}

TEST(LinearPack, WeightsThatCannotBeUsedAreNamed) {
  const Shape shape = {150, 70};
  for (const float bad : {NAN, INFINITY, -INFINITY}) {
    std::vector<float> weights = RandomWeights(shape, 5);
    weights[133 * shape.inputs + 7] = bad;
    for (const WeightFormat& format : kEveryFormat) {
      const absl::Status status = Pack(format, shape, weights).status();
      if (format.kind == WeightKind::kF32 || format.kind == WeightKind::kBf16) {
        EXPECT_TRUE(status.ok());  // as stored: it can be said in the format
        continue;
      }
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
      EXPECT_NE(std::string(status.message()).find("output 133, input 7"), std::string::npos)
          << status;
    }
  }
  std::vector<uint8_t> codes(shape.outputs * shape.inputs, 0x3f);
  std::vector<float> scales(2, 1.0f);
  EXPECT_TRUE(PackFp8(shape.outputs, shape.inputs, codes.data(), scales.data()).ok());
  for (const uint8_t nan : {0x7f, 0xff}) {
    codes[149 * shape.inputs + 69] = nan;
    const absl::Status status =
        PackFp8(shape.outputs, shape.inputs, codes.data(), scales.data()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    EXPECT_NE(std::string(status.message()).find("output 149, input 69"), std::string::npos);
  }
  codes.back() = 0;
  scales[1] = INFINITY;
  const absl::Status status =
      PackFp8(shape.outputs, shape.inputs, codes.data(), scales.data()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(std::string(status.message()).find("output 128"), std::string::npos) << status;
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
