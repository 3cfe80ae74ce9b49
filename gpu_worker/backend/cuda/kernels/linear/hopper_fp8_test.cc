// The fp8 product of Hopper against float64 on the numbers the format has, and against itself: the
// same bits however many rows there are, from run to run, and whatever lies beside its numbers.
#include "gpu_worker/backend/cuda/kernels/linear/hopper_fp8.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

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

// Few tiles to a cluster and all of them; the stages then go round from tile to tile.
constexpr HopperFp8Plan kPlans[] = {{false, 1}, {false, 3}, {true, 1}, {true, 2}};

// Bit for bit the same by every plan; what they give.
std::vector<float> RunAllPlans(LinearProblem problem) {
  const std::vector<float> chosen = problem.Run(Kernels::kHopper);
  for (const HopperFp8Plan& plan : kPlans) {
    problem.hopper_plan = plan;
    EXPECT_EQ(problem.Run(Kernels::kHopper), chosen)
        << problem.Name() << (plan.many_rows ? ", many rows, " : ", few rows, ") << plan.clusters;
  }
  return chosen;
}

// Runs of inputs: one, as many as stages of the rings and about it, in one part and in several.
// Outputs: less than a copy of weights, less than a warpgroup's, one and a half blocks and more.
// Rows: of one warp, more than a warpgroup's, than a block's, than a cluster's, an odd number of
// clusters' rows, more than are walked over before the next outputs.
TEST_F(LinearHopperFp8, IsTheExactProductWithinItsRoundings) {
  for (const LinearShape& shape : {LinearShape{1, 1, 1, 1},
                                   {64, 128, 3, 1},
                                   {70, 384, 5, 1},
                                   {128, 512, 64, 1},
                                   {130, 640, 2, 1},
                                   {192, 130, 65, 1},
                                   {40, 1200, 1, 1},
                                   {300, 300, 70, 1},
                                   {33, 900, 130, 1},
                                   {24, 1700, 20, 1},
                                   {100, 200, 3, 3},
                                   {72, 256, 65, 2},
                                   {130, 130, 258, 1},
                                   {10, 30, 520, 1},
                                   {130, 16, 2100, 1},
                                   {20, 2048, 17, 1},
                                   {257, 4100, 1, 1}}) {
    LinearProblem problem(kFp8, shape, 11);
    ExpectNearExact(problem, shape.inputs, RunAllPlans(problem));
  }
}

TEST_F(LinearHopperFp8, StoresBf16InPairsOrNot) {
  for (const int64_t gap : {0, 3}) {
    for (const int64_t outputs : {68, 71}) {
      LinearProblem problem(kFp8, {outputs, 256, 7, 2}, 12);
      problem.y_storage = Storage::kBf16;
      problem.y_gap = gap;
      ExpectNearExact(problem, 256, RunAllPlans(problem));
    }
  }
}

// Where y's rows begin at multiples of 16 bytes: whole boxes of 64 by 64, and cut ones.
TEST_F(LinearHopperFp8, StoresBf16InBoxes) {
  for (const auto& [outputs, gap] : {std::pair<int64_t, int64_t>(64, 8), {136, 0}, {193, 7}}) {
    for (const int64_t rows : {64, 150}) {
      LinearProblem problem(kFp8, {outputs, 140, rows, 1}, 16);
      problem.y_storage = Storage::kBf16;
      problem.y_gap = gap;
      ExpectNearExact(problem, 140, RunAllPlans(problem));
    }
  }
}

TEST_F(LinearHopperFp8, ARowHasTheSameBitsInAnyCompany) {
  constexpr int64_t kRows = 135, kOutputs = 66;
  LinearProblem problem(kFp8, {kOutputs, 1030, kRows, 1}, 13);
  const std::vector<float> all = problem.Run(Kernels::kHopper);
  EXPECT_EQ(problem.Run(Kernels::kHopper), all);  // and in any run
  for (const bool many_rows : {false, true}) {
    problem.hopper_plan = {many_rows, 1};
    for (const auto& [first, count] :
         {std::pair<int64_t, int64_t>(0, 1), {134, 1}, {64, 1}, {3, 64}, {60, 65}, {5, 130}}) {
      const std::vector<float> some = problem.Run(Kernels::kHopper, first, count);
      const std::vector<float> same(all.begin() + first * kOutputs,
                                    all.begin() + (first + count) * kOutputs);
      EXPECT_EQ(some, same) << first << " " << count << " " << many_rows;
    }
  }
}

// In a workspace that has been used, and with rows that somebody else has quantized.
TEST_F(LinearHopperFp8, RunsAndQuantizedRowsHaveTheSameBits) {
  LinearProblem problem(kFp8, {72, 1100, 67, 1}, 17);
  const std::vector<float> once = problem.Run(Kernels::kHopper);
  problem.runs = 2;
  EXPECT_EQ(RunAllPlans(problem), once);
  problem.quantized = true;
  EXPECT_EQ(RunAllPlans(problem), once);
}

TEST_F(LinearHopperFp8, ARowKeepsItsNansToItself) {
  LinearProblem problem(kFp8, {70, 1050, 3, 1}, 18);
  const std::vector<float> clean = problem.Run(Kernels::kHopper);
  problem.Input(0, 1, 1000) = std::numeric_limits<float>::quiet_NaN();
  for (int64_t k = 0; k < 1050; ++k) problem.Input(0, 2, k) = 0.0f;
  const std::vector<float> y = problem.Run(Kernels::kHopper);
  for (int64_t n = 0; n < 70; ++n) {
    EXPECT_EQ(y[n], clean[n]);
    EXPECT_TRUE(std::isnan(y[70 + n]));
    EXPECT_EQ(y[140 + n], 0.0f);
  }
}

TEST_F(LinearHopperFp8, NoRowsAreNothingToDo) {
  LinearProblem problem(kFp8, {5, 7, 0, 1}, 15);
  EXPECT_TRUE(problem.Run(Kernels::kHopper).empty());
}

TEST(HopperFp8Splits, ArePowersOfTwoThatShareTheRuns) {
  EXPECT_EQ(HopperFp8Splits(1), 1);
  EXPECT_EQ(HopperFp8Splits(896), 1);
  EXPECT_EQ(HopperFp8Splits(1024), 2);
  EXPECT_EQ(HopperFp8Splits(1536), 2);
  EXPECT_EQ(HopperFp8Splits(2048), 4);
  EXPECT_EQ(HopperFp8Splits(7168), 8);
  EXPECT_EQ(HopperFp8Splits(18432), 8);
}

int64_t BlocksOf(const HopperFp8Plan& plan, int64_t inputs) {
  return plan.clusters * (plan.many_rows ? 2 : HopperFp8Splits(inputs));
}

// DeepSeek-V3's layers on an H200: few rows on most of its 132 multiprocessors, 4096 on all that
// their tiles divide among, and never more blocks than run at once.
TEST(HopperFp8Plan, FillsTheGpu) {
  for (const auto& [outputs, inputs] : {std::pair<int64_t, int64_t>(2112, 7168),
                                        {24576, 1536},
                                        {32768, 512},
                                        {7168, 16384},
                                        {36864, 7168},
                                        {7168, 18432},
                                        {4096, 7168},
                                        {7168, 2048}}) {
    const DeviceMatrix w = MatrixShape(kFp8, outputs, inputs);
    for (const int64_t rows : {1, 64, 128}) {
      const HopperFp8Plan few = PlanHopperFp8(w, rows);
      EXPECT_FALSE(few.many_rows) << outputs << " " << inputs;
      EXPECT_GE(BlocksOf(few, inputs), 72) << outputs << " " << inputs;
      EXPECT_LE(BlocksOf(few, inputs), 132) << outputs << " " << inputs;
    }
    const HopperFp8Plan many = PlanHopperFp8(w, 4096);
    EXPECT_TRUE(many.many_rows) << outputs << " " << inputs;
    EXPECT_GE(BlocksOf(many, inputs), 110) << outputs << " " << inputs;
    EXPECT_LE(BlocksOf(many, inputs), 132) << outputs << " " << inputs;
  }
  EXPECT_FALSE(PlanHopperFp8(MatrixShape(kFp8, 576, 7168), 512).many_rows);
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
