// The portable linear kernels against float64 on the numbers that the formats have, and against
// themselves: the same bits whatever rows are computed together, from run to run, and whatever lies
// in padding, workspaces and between rows.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>

#include "gpu_worker/backend/cuda/kernels/linear/linear_kernels.h"
#include "gpu_worker/backend/cuda/kernels/linear/linear_problem.h"
#include "gpu_worker/backend/cuda/kernels/linear/portable_layout.h"

namespace tandem::gpu_worker::cuda {
namespace {

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

// One output and input; less and more than 64 and 128 outputs; inputs that are no multiple of 8,
// of 128; one group of scales and several; one row tile of each size and several.
TEST(LinearPortable, IsTheProduct) {
  for (const WeightFormat& format : kEveryFormat) {
    for (const LinearShape& shape : {LinearShape{1, 1, 1, 1},
                                     {70, 100, 2, 1},
                                     {130, 264, 17, 1},
                                     {72, 256, 33, 2},
                                     {24, 391, 65, 1},
                                     {576, 128, 1, 1}}) {
      LinearProblem problem(format, shape, 1);
      ExpectClose(problem, shape, problem.Run(Kernels::kPortable));
    }
  }
}

TEST(LinearPortable, NoRowsAreNothingToDo) {
  for (const WeightFormat& format : kEveryFormat) {
    LinearProblem problem(format, {5, 7, 0, 1}, 2);
    EXPECT_TRUE(problem.Run(Kernels::kPortable).empty());
  }
}

TEST(LinearPortable, StoresBf16) {
  for (const WeightFormat& format : kEveryFormat) {
    LinearProblem problem(format, {67, 130, 3, 2}, 3);
    std::vector<float> want = problem.Run(Kernels::kPortable);
    for (float& value : want) value = BF16ToF32(F32ToBF16(value));
    problem.y_storage = Storage::kBf16;
    EXPECT_EQ(problem.Run(Kernels::kPortable), want) << problem.Name();
  }
}

template <WeightKind kKind, int kRows>
void TestStages(int64_t rows) {
  // In blocks of 128 inputs; a stage is one, of bf16 half of one.
  constexpr int64_t kStages = PortableShape<kKind, kRows>::kStages;
  for (const int64_t blocks : {int64_t{1}, kStages - 1, kStages, kStages + 1, 2 * kStages + 1}) {
    for (const int64_t splits : {int64_t{1}, (blocks + 1) / 2}) {
      const LinearShape shape = {8, blocks * 128 - 8, rows, 1};
      LinearProblem problem({kKind}, shape, 4);
      problem.splits = splits;
      ExpectClose(problem, shape, problem.Run(Kernels::kPortable));
    }
  }
}

// As many stages as the pipeline has, fewer and more, and more than twice round.
TEST(LinearPortable, AnyNumberOfStages) {
  TestStages<WeightKind::kBf16, 16>(1);
  TestStages<WeightKind::kFp8, 16>(2);
  TestStages<WeightKind::kInt8, 16>(1);
  TestStages<WeightKind::kInt4, 16>(1);
  TestStages<WeightKind::kBf16, 64>(33);
  TestStages<WeightKind::kFp8, 32>(17);
  TestStages<WeightKind::kInt8, 64>(33);
  TestStages<WeightKind::kInt4, 32>(17);
}

TEST(LinearPortable, ARowHasTheSameBitsInAnyCompany) {
  constexpr int64_t kRows = 65, kOutputs = 9;
  for (const WeightFormat& format : kEveryFormat) {
    LinearProblem problem(format, {kOutputs, 520, kRows, 1}, 5);
    const std::vector<float> all = problem.Run(Kernels::kPortable);
    for (const auto& [first, count] : {std::pair<int64_t, int64_t>(0, 1),
                                       {64, 1},
                                       {31, 2},
                                       {7, 7},
                                       {3, 16},
                                       {11, 17},
                                       {16, 33}}) {
      const std::vector<float> some = problem.Run(Kernels::kPortable, first, count);
      const std::vector<float> same(all.begin() + first * kOutputs,
                                    all.begin() + (first + count) * kOutputs);
      EXPECT_EQ(some, same) << problem.Name() << ", " << first << " " << count;
    }
  }
}

// Rows that cannot be copied 16 bytes at a time, and a workspace that is used again.
TEST(LinearPortable, StridesAndRunsDoNotMatter) {
  for (const WeightFormat& format : kEveryFormat) {
    LinearProblem problem(format, {20, 136, 5, 2}, 6);
    problem.x_gap = 8;
    const std::vector<float> want = problem.Run(Kernels::kPortable);
    problem.runs = 2;
    EXPECT_EQ(problem.Run(Kernels::kPortable), want) << problem.Name();
    for (const int64_t gap : {0, 1, 4}) {
      problem.x_gap = gap;
      problem.y_gap = gap;
      EXPECT_EQ(problem.Run(Kernels::kPortable), want) << problem.Name() << " gap " << gap;
    }
  }
}

TEST(LinearPortable, RouterTakesBothKindsOfInputs) {
  for (const int64_t rows : {1, 6}) {
    LinearProblem problem({WeightKind::kF32}, {7, 300, rows, 1}, 7);
    const std::vector<float> want = problem.Run(Kernels::kPortable);
    problem.x_storage = Storage::kBf16;
    EXPECT_EQ(problem.Run(Kernels::kPortable), want);
  }
}

// More rows than go at once: the last ones are those of a call of their own.
TEST(LinearPortable, RowsAreCutIntoChunks) {
  constexpr int64_t kRows = kRowsAtOnceMax + 2, kOutputs = 3;
  for (const WeightFormat& format : {kEveryFormat[0], kEveryFormat[1], kEveryFormat[2]}) {
    LinearProblem problem(format, {kOutputs, 24, kRows, 1}, 8);
    const std::vector<float> all = problem.Run(Kernels::kPortable);
    const std::vector<float> last(all.end() - 3 * kOutputs, all.end());
    EXPECT_EQ(problem.Run(Kernels::kPortable, kRows - 3, 3), last) << problem.Name();
  }
}

// A number that is none spoils its row and no other; a row of zeros is zero.
TEST(LinearPortable, ARowKeepsItsNansToItself) {
  constexpr int64_t kRows = 4, kOutputs = 10;
  for (const WeightFormat& format : kEveryFormat) {
    LinearProblem problem(format, {kOutputs, 264, kRows, 1}, 9);
    const std::vector<float> clean = problem.Run(Kernels::kPortable);
    problem.Input(0, 1, 200) = std::numeric_limits<float>::quiet_NaN();
    problem.Input(0, 2, 3) = std::numeric_limits<float>::infinity();
    for (int64_t k = 0; k < 264; ++k) problem.Input(0, 3, k) = 0.0f;
    const std::vector<float> y = problem.Run(Kernels::kPortable);
    for (int64_t n = 0; n < kOutputs; ++n) {
      EXPECT_EQ(y[n], clean[n]) << problem.Name();
      EXPECT_TRUE(std::isnan(y[kOutputs + n])) << problem.Name();
      EXPECT_FALSE(std::isfinite(y[2 * kOutputs + n])) << problem.Name();
      EXPECT_EQ(y[3 * kOutputs + n], 0.0f) << problem.Name();
    }
  }
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
