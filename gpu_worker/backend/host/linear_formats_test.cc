// HostLinear in the formats made at load: right from every type a file may have, the same bits for
// every batch and thread count, and loud about weights that cannot be used.
#include <cmath>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "gpu_worker/backend/host/bf16.h"
#include "gpu_worker/backend/host/host_linear.h"
#include "gtest/gtest.h"
#include "lib/kernels/marlin_pack.h"
#include "lib/kernels/random_blocks.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker {
namespace {

const LinearFormat kFormats[] = {LinearKernel::kFp8,
                                 {LinearKernel::kMarlin8, 128},
                                 {LinearKernel::kMarlin8, 64},
                                 {LinearKernel::kMarlin4, 128},
                                 {LinearKernel::kMarlin4, 64}};

struct Weights {
  std::vector<std::byte> bytes;
  std::vector<float> scales;
  Matrix matrix;
};

// `fp8_block`: sides of the blocks of an fp8 matrix, 0: no scales.
std::unique_ptr<Weights> RandomWeights(DType type, int64_t rows, int64_t cols, int64_t fp8_block,
                                       uint64_t seed) {
  std::mt19937_64 random(seed);
  auto w = std::make_unique<Weights>();
  w->bytes = kernels::RandomRows(type, rows, cols, 0.01f, -1, random);
  TensorView& view = w->matrix.view;
  view.name = "test.weight";
  view.file = "test.gguf";
  view.dtype = type;
  view.shape = {rows, cols};
  view.data = w->bytes.data();
  view.size_bytes = static_cast<int64_t>(w->bytes.size());
  if (fp8_block == 0) return w;
  const int64_t scale_rows = (rows + fp8_block - 1) / fp8_block;
  const int64_t scale_cols = (cols + fp8_block - 1) / fp8_block;
  for (int64_t i = 0; i < scale_rows * scale_cols; ++i) {
    w->scales.push_back(std::uniform_real_distribution<float>(1e-4f, 1e-3f)(random));
  }
  TensorView scale = view;
  scale.dtype = DType::kF32;
  scale.shape = {scale_rows, scale_cols};
  scale.data = reinterpret_cast<const std::byte*>(w->scales.data());
  scale.size_bytes = static_cast<int64_t>(w->scales.size() * sizeof(float));
  w->matrix.scale_inv = scale;
  w->matrix.fp8_block_rows = w->matrix.fp8_block_cols = fp8_block;
  return w;
}

std::vector<float> RandomInputs(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> x(count);
  for (float& value : x) value = RoundBf16(normal(random));
  return x;
}

struct Source {
  DType type;
  int64_t fp8_block;
};
constexpr Source kSources[] = {{DType::kF32, 0},     {DType::kBF16, 0},   {DType::kF16, 0},
                               {DType::kQ8_0, 0},    {DType::kQ4_K, 0},   {DType::kQ6_K, 0},
                               {DType::kIQ1_S, 0},   {DType::kF8E4M3, 0}, {DType::kF8E4M3, 32},
                               {DType::kF8E4M3, 128}};

// How far a weight of this format may be from the source's: see the tests of lib/kernels. In the
// mean over a matrix of one magnitude; relative to the root mean square.
double ErrorMax(const LinearFormat& format) {
  switch (format.kernel) {
    case LinearKernel::kFp8:
      return 0.04;  // 2^-4 of a number at most, uniform: 2^-4 / sqrt(3) = 0.036
    case LinearKernel::kMarlin8:
      return 0.02;  // a step is 1/127 of 4 deviations; 2^-9 / sqrt(3) for scale and product each
    default:
      return 0.2;  // a step is 2/15 of 4 deviations, uniform: 0.53 / sqrt(12) = 0.154
  }
}

// Outputs and inputs that are no multiples of blocks and groups, except where the type has blocks.
TEST(LinearFormats, EveryTypeIsQuantizedAndMultiplied) {
  constexpr int64_t kOuts = 150, kRows = 3, kYStride = 160;
  base::ThreadPool pool(2);
  for (const Source& source : kSources) {
    const int64_t cols = source.fp8_block == 0 && source.type != DType::kF8E4M3 ? 512 : 333;
    const auto w = RandomWeights(source.type, kOuts, cols, source.fp8_block, 5);
    const std::vector<float> x = RandomInputs(kRows * cols, 6);
    for (const LinearFormat& format : kFormats) {
      const auto linear = HostLinear::Create(Precision::kBf16, format, w->matrix, pool);
      ASSERT_TRUE(linear.ok()) << linear.status();
      EXPECT_EQ(linear->outputs(), kOuts);
      EXPECT_EQ(linear->inputs(), cols);
      LinearScratch scratch;
      std::vector<float> y(kRows * kYStride, NAN), rounded(kRows * kYStride, NAN);
      linear->ApplyUnrounded(pool, scratch, x.data(), cols, kRows, y.data(), kYStride);
      linear->Apply(pool, scratch, x.data(), cols, kRows, rounded.data(), kYStride);
      double error = 0, size = 0;
      std::vector<float> row(cols);
      for (int64_t o = 0; o < kOuts; ++o) {
        DequantizeMatrixRow(w->matrix, o, row.data());
        for (int64_t r = 0; r < kRows; ++r) {
          double exact = 0;
          for (int64_t k = 0; k < cols; ++k) exact += static_cast<double>(row[k]) * x[r * cols + k];
          error += std::pow(y[r * kYStride + o] - exact, 2);
          size += exact * exact;
          ASSERT_EQ(rounded[r * kYStride + o], RoundBf16(y[r * kYStride + o]));
        }
      }
      // fp8 quantizes inputs as well: two errors of the same size. An output's relative error is a
      // weight's; 450 outputs of random signs are within a third of that in the mean.
      const double allowed =
          ErrorMax(format) * 1.35 * (format.kernel == LinearKernel::kFp8 ? std::sqrt(2.0) : 1.0);
      EXPECT_LT(std::sqrt(error / size), allowed) << NameOf(source.type) << " " << NameOf(format);
      for (int64_t r = 0; r < kRows; ++r) EXPECT_TRUE(std::isnan(y[r * kYStride + kOuts]));
    }
  }
}

TEST(LinearFormats, MemoryIsThatOfTheFormat) {
  base::ThreadPool pool(1);
  const auto w = RandomWeights(DType::kBF16, 256, 1024, 0, 1);
  const int64_t weights = 256 * 1024;
  const auto bytes = [&](LinearFormat format) {
    return HostLinear::Create(Precision::kBf16, format, w->matrix, pool)->size_bytes();
  };
  EXPECT_EQ(bytes(LinearKernel::kNative), weights * 2);
  EXPECT_EQ(bytes(LinearKernel::kFp8), weights + weights / (128 * 128) * 4);
  EXPECT_EQ(bytes(LinearKernel::kMarlin8), weights + weights / 128 * 2);
  EXPECT_EQ(bytes({LinearKernel::kMarlin4, 64}), weights / 2 + weights / 64 * 2);
}

TEST(LinearFormats, RowsThreadsAndStridesDoNotMatter) {
  constexpr int64_t kOuts = 131, kCols = 300, kRows = 65, kStride = 310, kYStride = 140;
  const auto w = RandomWeights(DType::kF32, kOuts, kCols, 0, 2);
  std::vector<float> x = RandomInputs(kRows * kStride, 3);
  for (const LinearFormat& format : kFormats) {
    base::ThreadPool one(1), two(2);
    const auto a = HostLinear::Create(Precision::kBf16, format, w->matrix, one);
    const auto b = HostLinear::Create(Precision::kBf16, format, w->matrix, two);
    ASSERT_TRUE(a.ok() && b.ok());
    LinearScratch scratch;
    std::vector<float> want(kRows * kYStride);
    for (int64_t r = 0; r < kRows; ++r) {
      a->ApplyUnrounded(one, scratch, &x[r * kStride], kStride, 1, &want[r * kYStride], kYStride);
    }
    for (int64_t rows = 1; rows <= kRows; ++rows) {
      std::vector<float> y(kRows * kYStride, NAN);
      b->ApplyUnrounded(two, scratch, x.data(), kStride, rows, y.data(), kYStride);
      for (int64_t r = 0; r < rows; ++r) {
        ASSERT_EQ(std::memcmp(&y[r * kYStride], &want[r * kYStride], kOuts * sizeof(float)), 0)
            << NameOf(format) << " row " << r << " of " << rows;
      }
    }
  }
}

// What a GPU would be given means the weights that the host multiplies with.
TEST(LinearFormats, PackedForTheGpuMarlinHasTheSameWeights) {
  constexpr int64_t kOuts = 70, kCols = 200;
  const auto w = RandomWeights(DType::kF32, kOuts, kCols, 0, 2);
  base::ThreadPool pool(1);
  for (const kernels::MarlinForm& form :
       {kernels::MarlinForm{4, 128}, {4, 64}, {8, 128}, {8, 64}}) {
    std::vector<uint8_t> codes(kOuts * kCols), unpacked;
    std::vector<uint16_t> scales(kOuts * form.Groups(kCols)), unpacked_scales;
    std::vector<float> row(kCols);
    for (int64_t o = 0; o < kOuts; ++o) {
      DequantizeMatrixRow(w->matrix, o, row.data());
      kernels::QuantizeMarlinRow(form, row.data(), kCols, &codes[o * kCols],
                                 &scales[o * form.Groups(kCols)]);
    }
    kernels::UnpackMarlin(kernels::PackMarlin(form, codes, scales, kOuts, kCols), kOuts, kCols,
                          &unpacked, &unpacked_scales);
    const auto linear = MarlinLinear::Create(form, w->matrix, pool);
    ASSERT_TRUE(linear.ok());
    for (int64_t o = 0; o < kOuts; ++o) {
      (*linear)->ReadRow(o, row.data());
      for (int64_t k = 0; k < kCols; ++k) {
        ASSERT_EQ(row[k], Bf16Value(kernels::MarlinWeight(
                              form, unpacked[o * kCols + k],
                              unpacked_scales[o * form.Groups(kCols) + k / form.group])));
      }
    }
  }
}

TEST(LinearFormats, NameWeightsThatAreNotFinite) {
  base::ThreadPool pool(2);
  for (const float bad : {std::nanf(""), INFINITY}) {
    const auto w = RandomWeights(DType::kF32, 200, 64, 0, 1);
    std::memcpy(w->bytes.data() + (133 * 64 + 7) * 4, &bad, 4);
    for (const LinearFormat& format : kFormats) {
      const absl::Status status =
          HostLinear::Create(Precision::kBf16, format, w->matrix, pool).status();
      EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
      for (const char* part : {"test.gguf", "test.weight", "row 133", "column 7"}) {
        EXPECT_NE(status.message().find(part), absl::string_view::npos) << status;
      }
    }
  }
  const auto fp8 = RandomWeights(DType::kF8E4M3, 200, 64, 128, 1);
  fp8->scales[1] = INFINITY;
  absl::Status status = Fp8Linear::Create(fp8->matrix, pool).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  fp8->scales[1] = 1;
  fp8->bytes[190 * 64] = std::byte{0xff};
  status = Fp8Linear::Create(fp8->matrix, pool).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
  EXPECT_NE(status.message().find("row 190"), absl::string_view::npos) << status;
}

TEST(LinearFormat, NamesAreParsedAndRefused) {
  for (const char* name : {"native", "onednn", "stored", "fp8", "marlin8", "marlin4"}) {
    const auto format = ParseLinearFormat(name, 64);
    ASSERT_TRUE(format.ok()) << format.status();
    EXPECT_EQ(NameOf(*format).substr(0, std::strlen(name)), name);
  }
  EXPECT_EQ(NameOf(*ParseLinearFormat("marlin4", 64)), "marlin4 group 64");
  const absl::Status unknown = ParseLinearFormat("fp9").status();
  EXPECT_EQ(unknown.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(unknown.message().find("marlin8"), absl::string_view::npos) << unknown;
  const absl::Status group = ParseLinearFormat("marlin8", 32).status();
  EXPECT_EQ(group.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(group.message().find("found 32"), absl::string_view::npos) << group;
}

}  // namespace
}  // namespace tandem::gpu_worker
