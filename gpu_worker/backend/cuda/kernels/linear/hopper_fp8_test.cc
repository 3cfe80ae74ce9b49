// The fp8 product of Hopper against float64 on the numbers the format has, and against itself: the
// same bits however many rows there are, from run to run, and whatever lies beside its numbers.
#include "gpu_worker/backend/cuda/kernels/linear/hopper_fp8.h"

#include <gtest/gtest.h>

#include <cmath>

#include "gpu_worker/backend/cuda/kernels/linear/linear_problem.h"

namespace tandem::gpu_worker::cuda {
namespace {

constexpr WeightFormat kFp8 = {WeightKind::kFp8};

class LinearHopperFp8 : public testing::Test {
 protected:
  void SetUp() override {
    const auto properties = UseDevice(0);
    ASSERT_TRUE(properties.ok());
    if (properties->major != 9) GTEST_SKIP() << "needs a GPU of compute capability 9.0";
    emulated_ = properties->emulated;
  }

  // Error of a sum per sum of magnitudes. The emulator adds in f32: 128 roundings in a block, two
  // of each scale's product and promotion. Tensor cores keep 13 bits behind the largest of the 33
  // terms they add at once, each term being cut off: at most 33 / 2^13 of the block's largest
  // product for each of four such sums; the largest product is a small part of the sum of
  // magnitudes (below a 16th of a block's in these problems), so 2^-9 of it is generous for a sound
  // product.
  double Bound(int64_t inputs) const {
    const double blocks = static_cast<double>((inputs + 127) / 128);
    return emulated_ ? (128 + 2 * blocks + 2) * std::ldexp(1.0, -24) : std::ldexp(1.0, -9);
  }

  void ExpectNearExact(const LinearProblem& problem, int64_t inputs,
                       const std::vector<float>& found) const {
    const LinearProblem::Exact exact = problem.InDouble();
    ASSERT_EQ(found.size(), exact.sums.size());
    const bool bf16 = problem.y_storage == Storage::kBf16;
    double dot = 0, found2 = 0, exact2 = 0;
    for (size_t i = 0; i < found.size(); ++i) {
      const double rounding = bf16 ? std::ldexp(std::abs(exact.sums[i]), -8) : 0;
      ASSERT_NEAR(found[i], exact.sums[i], exact.magnitudes[i] * Bound(inputs) + rounding)
          << problem.Name() << " at " << i;
      dot += found[i] * exact.sums[i];
      found2 += static_cast<double>(found[i]) * found[i];
      exact2 += exact.sums[i] * exact.sums[i];
    }
    EXPECT_LT(1 - 2 * dot / (found2 + exact2), 1e-5) << problem.Name();
  }

  bool emulated_ = false;
};

// Runs of inputs: one, as many as stages of the ring and about it, more than two rounds. Outputs:
// less than a copy, one and a half and two thread blocks.
TEST_F(LinearHopperFp8, IsTheExactProductWithinItsRoundings) {
  for (const LinearShape& shape : {LinearShape{1, 1, 1, 1},
                                   {64, 128, 3, 1},
                                   {70, 384, 5, 1},
                                   {128, 512, 64, 1},
                                   {130, 640, 2, 1},
                                   {192, 130, 65, 1},
                                   {40, 1200, 1, 1},
                                   {256, 300, 70, 1},
                                   {33, 900, 130, 1},
                                   {24, 1700, 66, 1},
                                   {100, 200, 3, 3},
                                   {72, 256, 65, 2}}) {
    LinearProblem problem(kFp8, shape, 11);
    ExpectNearExact(problem, shape.inputs, problem.Run(Kernels::kHopper));
  }
}

TEST_F(LinearHopperFp8, StoresBf16InPairsOrNot) {
  for (const int64_t gap : {0, 3}) {
    for (const int64_t outputs : {68, 71}) {
      LinearProblem problem(kFp8, {outputs, 256, 7, 2}, 12);
      problem.y_storage = Storage::kBf16;
      problem.y_gap = gap;
      ExpectNearExact(problem, 256, problem.Run(Kernels::kHopper));
    }
  }
}

TEST_F(LinearHopperFp8, ARowHasTheSameBitsInAnyCompany) {
  constexpr int64_t kRows = 135, kOutputs = 66;
  LinearProblem problem(kFp8, {kOutputs, 400, kRows, 1}, 13);
  const std::vector<float> all = problem.Run(Kernels::kHopper);
  EXPECT_EQ(problem.Run(Kernels::kHopper), all);  // and in any run
  for (const auto& [first, count] :
       {std::pair<int64_t, int64_t>(0, 1), {134, 1}, {64, 1}, {3, 64}, {60, 65}}) {
    const std::vector<float> some = problem.Run(Kernels::kHopper, first, count);
    const std::vector<float> same(all.begin() + first * kOutputs,
                                  all.begin() + (first + count) * kOutputs);
    EXPECT_EQ(some, same) << first << " " << count;
  }
}

TEST_F(LinearHopperFp8, MoreRowsThanGoAtOnce) {
  LinearProblem problem(kFp8, {8, 16, 1030, 1}, 14);
  ExpectNearExact(problem, 16, problem.Run(Kernels::kHopper));
}

TEST_F(LinearHopperFp8, NoRowsAreNothingToDo) {
  LinearProblem problem(kFp8, {5, 7, 0, 1}, 15);
  EXPECT_TRUE(problem.Run(Kernels::kHopper).empty());
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
