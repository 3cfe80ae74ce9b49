#include "lib/kernels/onednn_linear.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "lib/base/thread_pool.h"
#include "lib/tensor/codec.h"

namespace tandem::kernels {
namespace {

std::vector<uint16_t> RandomBf16(int64_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values(n);
  for (uint16_t& value : values) value = F32ToBF16(normal(random));
  return values;
}

class OneDnnLinearTest : public testing::Test {
 protected:
  void SetUp() override {
    if (!OneDnnLinear::Available()) {
      GTEST_SKIP() << "oneDNN has no bf16 matmul with position-independent rows here";
    }
  }
};

TEST_F(OneDnnLinearTest, IsCloseToDouble) {
  const int64_t n = 333, k = 520, rows = 5;
  const std::vector<uint16_t> w = RandomBf16(n * k, 1), x = RandomBf16(rows * k, 2);
  const auto linear = OneDnnLinear::Create(w.data(), n, k);
  ASSERT_TRUE(linear.ok()) << linear.status();
  EXPECT_EQ((*linear)->slices(), 2);
  std::vector<float> y(rows * n);
  (*linear)->Run(x.data(), k, rows, 0, 2, y.data(), n);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t o = 0; o < n; ++o) {
      double want = 0, magnitude = 0;
      for (int64_t i = 0; i < k; ++i) {
        const double term = static_cast<double>(BF16ToF32(x[r * k + i])) * BF16ToF32(w[o * k + i]);
        want += term;
        magnitude += std::abs(term);
      }
      // Any order of k f32 additions, each rounding by 2^-24; VDPBF16PS may flush denormals and
      // round twice.
      ASSERT_NEAR(y[r * n + o], want, k * std::exp2(-23) * magnitude);
    }
  }
}

TEST_F(OneDnnLinearTest, RowBitsDoNotDependOnRowsSlicesOrThreads) {
  for (const auto& shape : std::vector<std::pair<int64_t, int64_t>>{{576, 512}, {100, 1408}}) {
    const int64_t n = shape.first, k = shape.second;
    const std::vector<uint16_t> w = RandomBf16(n * k, 3), x = RandomBf16(512 * k, 4);
    const auto linear = OneDnnLinear::Create(w.data(), n, k);
    ASSERT_TRUE(linear.ok()) << linear.status();
    std::vector<float> want(512 * n);
    (*linear)->Run(x.data(), k, 512, 0, (*linear)->slices(), want.data(), n);
    std::vector<int64_t> counts;
    for (int64_t rows = 1; rows <= 65; ++rows) counts.push_back(rows);
    counts.push_back(512);
    for (int threads : {1, 2}) {
      base::ThreadPool pool(threads);
      for (int64_t rows : counts) {
        // Rows from the end, so that each row moves through all places of a tile.
        const int64_t first = 512 - rows;
        std::vector<float> y(rows * n, NAN);
        pool.ParallelFor((*linear)->slices(), 1, [&](int64_t begin, int64_t end) {
          (*linear)->Run(x.data() + first * k, k, rows, begin, end, y.data(), n);
        });
        ASSERT_EQ(std::memcmp(y.data(), want.data() + first * n, y.size() * 4), 0)
            << "rows " << rows << " threads " << threads;
      }
    }
  }
}

}  // namespace
}  // namespace tandem::kernels
