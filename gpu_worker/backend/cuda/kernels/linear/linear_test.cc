// Linear layers on the device. The reference has the host kernels' bits, format by format; whatever
// lies in padding, workspaces and between rows is never read as a number nor written.
#include "gpu_worker/backend/cuda/kernels/linear/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>

#include "gpu_worker/backend/cuda/device/device_test_support.h"
#include "gpu_worker/backend/cuda/kernels/linear/linear_problem.h"
#include "gpu_worker/backend/cuda/kernels/linear/pack.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr WeightFormat kFormats[] = {{WeightKind::kF32},      {WeightKind::kBf16},
                                     {WeightKind::kFp8},      {WeightKind::kInt8, 128},
                                     {WeightKind::kInt8, 64}, {WeightKind::kInt4, 128},
                                     {WeightKind::kInt4, 64}};

TEST(LinearReferenceKernel, HasTheHostsBits) {
  for (const WeightFormat& format : kFormats) {
    for (const LinearShape& shape : {LinearShape{1, 1, 1, 1},
                                     {70, 100, 3, 1},
                                     {33, 128, 1, 3},
                                     {130, 300, 2, 2},
                                     {5, 391, 17, 1}}) {
      LinearProblem problem(format, shape, 1);
      const std::vector<float> want = problem.OnHost();
      EXPECT_EQ(problem.Run(Kernels::kReference), want) << problem.Name();
    }
  }
}

TEST(LinearReferenceKernel, StoresBf16) {
  for (const WeightFormat& format : kFormats) {
    LinearProblem problem(format, {65, 140, 2, 2}, 2);
    std::vector<float> want = problem.OnHost();
    for (float& value : want) value = BF16ToF32(F32ToBF16(value));
    problem.y_storage = Storage::kBf16;
    EXPECT_EQ(problem.Run(Kernels::kReference), want) << problem.Name();
  }
}

TEST(LinearReferenceKernel, RouterTakesBothKindsOfInputs) {
  LinearProblem problem({WeightKind::kF32}, {7, 50, 3, 1}, 3);
  const std::vector<float> want = problem.OnHost();
  problem.x_storage = Storage::kBf16;
  EXPECT_EQ(problem.Run(Kernels::kReference), want);
}

// More rows than go at once.
TEST(LinearReferenceKernel, RowsAreCutIntoChunks) {
  for (const WeightFormat& format : {kFormats[1], kFormats[2]}) {
    LinearProblem problem(format, {3, 20, 515, 1}, 4);
    EXPECT_EQ(problem.Run(Kernels::kReference), problem.OnHost()) << problem.Name();
  }
}

TEST(Linear, NoRowsAreNothingToDo) {
  for (const WeightFormat& format : kFormats) {
    LinearProblem problem(format, {5, 7, 0, 1}, 5);
    EXPECT_TRUE(problem.Run(Kernels::kReference).empty());
  }
}

// What rounding f32 sums may cost, per output: a tensor core adds 16 products and the sum so far
// with at least 23 bits behind the largest of them, so each loses at most 2^-23 of the magnitudes
// added so far; on top come four warps, up to 16 splits, and one promotion, with the rounding of
// its scale, per 128 inputs.
double RoundingMax(const LinearShape& shape, double magnitude) {
  const double inputs = static_cast<double>(RoundUpTo(shape.inputs, 128));
  const double roundings = inputs * 17 / 16 + 4 + 16 + 2 * inputs / 128;
  return roundings * std::exp2(-23) * magnitude + std::exp2(-126);
}

void ExpectClose(const LinearProblem& problem, const LinearShape& shape,
                 const std::vector<float>& y) {
  const LinearProblem::Exact exact = problem.InDouble();
  ASSERT_EQ(y.size(), exact.sums.size());
  double difference = 0, product = 0, squares = 0, own = 0;
  for (size_t i = 0; i < y.size(); ++i) {
    const double bound = RoundingMax(shape, exact.magnitudes[i]);
    ASSERT_NEAR(y[i], exact.sums[i], bound) << problem.Name() << " " << i;
    difference += std::pow(y[i] - exact.sums[i], 2);
    product += y[i] * exact.sums[i];
    squares += exact.sums[i] * exact.sums[i];
    own += static_cast<double>(y[i]) * y[i];
  }
  EXPECT_LT(std::sqrt(difference / squares), 1e-5) << problem.Name();
  EXPECT_LT(1 - 2 * product / (squares + own), 1e-10) << problem.Name();
}

TEST(LinearPortableKernel, IsTheProduct) {
  for (const WeightFormat& format : kFormats) {
    for (const LinearShape& shape : {LinearShape{1, 1, 1, 1},
                                     {70, 100, 3, 1},
                                     {130, 520, 17, 1},
                                     {200, 256, 33, 2},
                                     {64, 391, 65, 1}}) {
      LinearProblem problem(format, shape, 1);
      ExpectClose(problem, shape, problem.Run(Kernels::kPortable));
    }
  }
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
