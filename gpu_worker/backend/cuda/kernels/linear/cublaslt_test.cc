// What is given to cuBLASLt: its rules, and the layouts made of packed weights. The product itself
// needs the library and a GPU.
#include "gpu_worker/backend/cuda/kernels/linear/cublaslt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>

#include "gpu_worker/backend/cuda/device/device_test_support.h"
#include "gpu_worker/backend/cuda/kernels/linear/linear_problem.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker::cuda {
namespace {

alignas(256) float memory[8];

CublasLtProduct Fine(WeightKind kind) {
  CublasLtProduct p;
  p.kind = kind;
  p.outputs = 256;
  p.inputs = p.x_stride = 384;
  p.rows = 260;
  p.w = p.x = p.y = p.workspace = memory;
  p.w_scales = p.x_scales = memory;
  p.y_stride = 256;
  p.workspace_bytes = kCublasLtWorkspaceBytes;
  return p;
}

std::string ProblemWith(WeightKind kind, const std::function<void(CublasLtProduct&)>& change) {
  CublasLtProduct p = Fine(kind);
  change(p);
  EXPECT_EQ(MultiplyByCublasLt(p, nullptr).code(), absl::StatusCode::kInvalidArgument);
  return CublasLtProblem(p);
}

TEST(CublasLt, RulesOfTheLibraryAreChecked) {
  using testing::HasSubstr;
  EXPECT_EQ(CublasLtProblem(Fine(WeightKind::kBf16)), "");
  EXPECT_EQ(CublasLtProblem(Fine(WeightKind::kFp8)), "");
  EXPECT_THAT(ProblemWith(WeightKind::kInt8, [](auto&) {}), HasSubstr("bf16 or fp8"));
  for (const WeightKind kind : {WeightKind::kBf16, WeightKind::kFp8}) {
    EXPECT_THAT(ProblemWith(kind, [](auto& p) { p.x = memory + 1; }), HasSubstr("inputs of"));
    EXPECT_THAT(ProblemWith(kind, [](auto& p) { p.x_stride = 390; }), HasSubstr("multiples of 16"));
    EXPECT_THAT(ProblemWith(kind, [](auto& p) { p.y_stride = 257; }), HasSubstr("outputs of"));
    EXPECT_THAT(ProblemWith(kind, [](auto& p) { p.workspace_bytes -= 1; }), HasSubstr("workspace"));
  }
  constexpr auto kFp8 = WeightKind::kFp8;
  EXPECT_THAT(ProblemWith(kFp8, [](auto& p) { p.rows = 258; }), HasSubstr("multiple of 4"));
  EXPECT_THAT(ProblemWith(kFp8, [](auto& p) { p.outputs = 576; }), HasSubstr("multiples of 128"));
  EXPECT_THAT(ProblemWith(kFp8, [](auto& p) { p.inputs = 400; }), HasSubstr("multiples of 128"));
  EXPECT_THAT(ProblemWith(kFp8, [](auto& p) { p.x_scales = nullptr; }), HasSubstr("scales"));
}

TEST(CublasLt, ScalesArePaddedToFours) {
  EXPECT_EQ(CublasLtBlocks(7168), 56);
  EXPECT_EQ(CublasLtBlocks(2304), 20);  // down projection of a dense layer, an eighth of 18432
  EXPECT_EQ(CublasLtBlocks(256), 4);
}

TEST(CublasLt, WeightsComeBackRowByRow) {
  DeviceForTest device;
  for (const WeightKind kind : {WeightKind::kBf16, WeightKind::kFp8}) {
    constexpr int64_t kOutputs = 131, kInputs = 272;
    const auto value = [](int64_t n, int64_t k) {
      return F8E4M3ToF32(static_cast<uint8_t>((n * 31 + k * 7) % 127));
    };
    const auto packed = PackMatrix({kind}, kOutputs, kInputs, [&](int64_t n, float* row) {
      for (int64_t k = 0; k < kInputs; ++k) row[k] = value(n, k);
    });
    ASSERT_TRUE(packed.ok());
    DeviceMatrix w = packed->shape;
    w.weights = device.Upload(packed->weights);
    const int64_t bytes = kind == WeightKind::kFp8 ? 1 : 2;
    auto* const plain = device.Allocate<uint8_t>(kOutputs * kInputs * bytes);
    PlainWeights(w, plain, device.stream());
    const auto found = device.Download(plain, kOutputs * kInputs * bytes);
    for (int64_t i = 0; i < kOutputs * kInputs; ++i) {
      const float weight = value(i / kInputs, i % kInputs);
      if (kind == WeightKind::kBf16) {
        ASSERT_EQ(found[2 * i] | found[2 * i + 1] << 8, F32ToBF16(weight)) << i;
      } else {
        // Each full block holds 448, so its scale is 1; the last, of three outputs, is looser.
        if (i / kInputs < 128 && i % kInputs < 256) {
          ASSERT_EQ(found[i], F32ToF8E4M3(weight)) << i;
        }
      }
    }
  }
}

TEST(CublasLt, ScalesLieAsTheLibraryReadsThem) {
  DeviceForTest device;
  DeviceMatrix w = MatrixShape({WeightKind::kFp8}, 384, 640);  // 3 by 5 blocks
  std::vector<float> scales(15), inputs(7 * 5);
  for (size_t i = 0; i < scales.size(); ++i) scales[i] = static_cast<float>(i + 1);
  for (size_t i = 0; i < inputs.size(); ++i) inputs[i] = static_cast<float>(i + 1);
  w.scales = device.Upload(scales);
  float* const plain = device.Allocate<float>(3 * 8);
  float* const transposed = device.Allocate<float>(7 * 5);
  PlainWeightScales(w, plain, device.stream());
  TransposeScales(device.Upload(inputs), 7, 5, transposed, device.stream());
  const auto of_weights = device.Download(plain, 24), of_inputs = device.Download(transposed, 35);
  for (int i = 0; i < 24; ++i) {
    EXPECT_EQ(of_weights[i], i % 8 < 5 ? scales[i / 8 * 5 + i % 8] : 0.0f);
  }
  for (int i = 0; i < 35; ++i) EXPECT_EQ(of_inputs[i], inputs[i % 7 * 5 + i / 7]);
}

// Sums that depend on the batch are a choice of the caller's.
TEST(CublasLt, IsNotTakenUnlessAllowed) {
  LinearArgs args;
  args.kernels = Kernels::kHopper;
  args.w = MatrixShape({WeightKind::kBf16}, 256, 384);
  args.x = args.y = args.workspace = memory;
  args.x_stride = 384;
  args.y_stride = 256;
  args.rows = kCublasLtRowsMin;
  EXPECT_FALSE(TakesCublasLt(args));
  args.allow_batch_dependent = true;
  EXPECT_EQ(TakesCublasLt(args), HasCublasLt());
  args.rows = kCublasLtRowsMin - 1;
  EXPECT_FALSE(TakesCublasLt(args));
}

TEST(CublasLt, IsTheExactProduct) {
  if (!HasCublasLt()) GTEST_SKIP() << "needs cuBLASLt and a GPU";
  const bool hopper = UseDevice(0)->major == 9;
  for (const WeightKind kind : {WeightKind::kBf16, WeightKind::kFp8}) {
    if (kind == WeightKind::kFp8 && !hopper) continue;
    LinearProblem problem({kind}, {256, 640, 260, 1}, 1);
    problem.allow_batch_dependent = true;
    problem.x_gap = 0;
    problem.y_gap = 0;
    const auto found = problem.Run(hopper ? Kernels::kHopper : Kernels::kPortable);
    const auto exact = problem.InDouble();
    for (size_t i = 0; i < found.size(); ++i) {
      ASSERT_NEAR(found[i], exact.sums[i], exact.magnitudes[i] * std::ldexp(1.0, -9)) << i;
    }
    problem.quantized = kind == WeightKind::kFp8;
    EXPECT_EQ(problem.Run(hopper ? Kernels::kHopper : Kernels::kPortable), found);
  }
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
