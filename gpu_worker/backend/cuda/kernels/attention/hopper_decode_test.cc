// Hopper's decode attention against float64, with poison in everything that must not be read; and
// against itself, alone and among others, dealt to one thread block and to several.
#include "gpu_worker/backend/cuda/kernels/attention/hopper_decode.h"

#include <gtest/gtest.h>

#include "gpu_worker/backend/cuda/kernels/attention/decode_test_support.h"

namespace tandem::gpu_worker::cuda::decode_test {
namespace {

Step HopperStep(int64_t heads, std::vector<int32_t> lengths) {
  const MlaShape shape = Shape(heads, 512, 64);
  EXPECT_TRUE(HasHopperDecode(shape, Storage::kBf16));
  return MakeStep(shape, Storage::kBf16, std::move(lengths), static_cast<unsigned>(heads));
}

Result Decode(const Step& step, int multiprocessors) {
  return RunOnce(step, {.kernels = Kernels::kHopper, .multiprocessors = multiprocessors});
}

class HopperDecode : public testing::Test {
 protected:
  void SetUp() override {
    const auto properties = UseDevice(0);
    ASSERT_TRUE(properties.ok());
    if (properties->major != 9) GTEST_SKIP() << "needs a GPU of compute capability 9.0";
  }
};

// Lengths around a page; rows of one, two and three parts (two, five pages: 4 and 5 are two and
// three parts), so that items of one and of several pages follow each other in a thread block.
TEST_F(HopperDecode, IsExactForALayerOfAllHeads) {
  const Step step = HopperStep(128, {65, 1, 0, 200});
  ExpectExact(step, Decode(step, 3));
}

TEST_F(HopperDecode, IsExactForHeadsThatDoNotFillATile) {
  for (const int64_t heads : {33, 63, 80}) {
    const Step step = HopperStep(heads, {63, 130});
    ExpectExact(step, Decode(step, 2));
  }
}

TEST_F(HopperDecode, ManyPagesThroughOneThreadBlock) {
  const Step step = HopperStep(64, {64, 0, 128, 320, 7});
  ExpectExact(step, Decode(step, 1));
}

TEST_F(HopperDecode, ARowHasTheSameBitsInAnyCompanyAndDealing) {
  const Step step = HopperStep(64, {65, 0, 330, 128});
  const Result together = Decode(step, 2), again = Decode(step, 7);
  ExpectExact(step, together);
  for (int64_t row = 0; row < step.rows(); ++row) {
    ExpectSameRow(step.shape, together, row, again, row);
    ExpectSameRow(step.shape, Decode(Alone(step, row), 1), 0, together, row);
  }
}

TEST(HopperDecodeShapes, AreSaid) {
  const auto shape = [](int64_t heads, int64_t latent) {
    return MlaShape{.heads = heads, .latent = latent, .rope = 64};
  };
  EXPECT_TRUE(HasHopperDecode(shape(128, 512), Storage::kBf16));
  EXPECT_TRUE(HasHopperDecode(shape(33, 512), Storage::kBf16));
  EXPECT_FALSE(HasHopperDecode(shape(32, 512), Storage::kBf16));
  EXPECT_FALSE(HasHopperDecode(shape(64, 64), Storage::kBf16));
  EXPECT_FALSE(HasHopperDecode(shape(64, 512), Storage::kF32));
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda::decode_test
