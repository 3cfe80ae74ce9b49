// Linear layers on the device. The reference has the host kernels' bits, format by format; whatever
// lies in padding, workspaces and between rows is never read as a number nor written.
#include "gpu_worker/backend/cuda/kernels/linear/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <string>

#include "gpu_worker/backend/cuda/device/device_test_support.h"
#include "gpu_worker/backend/cuda/kernels/linear/linear_kernels.h"
#include "gpu_worker/backend/cuda/kernels/linear/linear_problem.h"

namespace tandem::gpu_worker::cuda {
namespace {

TEST(LinearReferenceKernel, HasTheHostsBits) {
  for (const WeightFormat& format : kEveryFormat) {
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
  for (const WeightFormat& format : kEveryFormat) {
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
  for (const WeightFormat& format : {kEveryFormat[1], kEveryFormat[2]}) {
    LinearProblem problem(format, {3, 20, kRowsAtOnceMax + 3, 1}, 4);
    EXPECT_EQ(problem.Run(Kernels::kReference), problem.OnHost()) << problem.Name();
  }
}

// Every fp8 kernel takes rows that are quantized already and has the bits of the rows themselves.
TEST(Linear, QuantizedRowsHaveTheBitsOfTheRows) {
  const auto properties = UseDevice(0);
  ASSERT_TRUE(properties.ok());
  for (const Kernels kernels : {Kernels::kReference, Kernels::kPortable, Kernels::kHopper}) {
    if (kernels == Kernels::kHopper && properties->major != 9) continue;
    for (const LinearShape& shape : {LinearShape{1, 1, 1, 1},
                                     {70, 100, 3, 1},
                                     {130, 300, 65, 1},
                                     {5, 640, 130, 1},
                                     {3, 20, 270, 1}}) {
      LinearProblem problem({WeightKind::kFp8}, shape, 6);
      const std::vector<float> want = problem.Run(kernels);
      problem.quantized = true;
      problem.runs = 2;
      EXPECT_EQ(problem.Run(kernels), want) << static_cast<int>(kernels) << problem.Name();
    }
  }
}

TEST(Linear, NoRowsAreNothingToDo) {
  for (const WeightFormat& format : kEveryFormat) {
    LinearProblem problem(format, {5, 7, 0, 1}, 5);
    EXPECT_TRUE(problem.Run(Kernels::kReference).empty());
  }
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
