#include "gpu_worker/backend/shard/part_rows.h"

#include <gtest/gtest.h>

#include <limits>
#include <vector>

namespace tandem::gpu_worker {
namespace {

TEST(PartRowsTest, UnevenPartsLieSideBySide) {
  const Split split({{0, 3}, {3, 4}, {4, 4}, {4, 6}});
  constexpr int64_t kRows = 2, kCols = 6, kPart = 3;
  ASSERT_EQ(split.part_max(), kPart);
  std::vector<float> parts(4 * kRows * kPart, std::numeric_limits<float>::quiet_NaN());
  for (int rank = 0; rank < 4; ++rank) {
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t c = 0; c < split.of(rank).size(); ++c) {
        parts[(rank * kRows + r) * kPart + c] =
            static_cast<float>(r * 100 + split.of(rank).begin + c);
      }
    }
  }
  std::vector<float> whole(kRows * kCols, -1);
  MergeParts(split, kRows, parts.data(), kCols, whole.data());
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < kCols; ++c) EXPECT_EQ(whole[r * kCols + c], r * 100 + c);
  }
}

TEST(PartRowsTest, NoRowsAreNoWork) { MergeParts(SplitOutputs(8, 1, 2), 0, nullptr, 8, nullptr); }

}  // namespace
}  // namespace tandem::gpu_worker
