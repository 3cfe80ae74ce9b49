#include "lib/kernels/linear.h"

#include <bit>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "lib/base/thread_pool.h"
#include "lib/kernels/kernel_table.h"
#include "lib/tensor/codec.h"

namespace tandem::kernels {
namespace {

struct Problem {
  int64_t rows, cols, n;
  std::vector<float> x, w;
  std::vector<uint16_t> x16, w16;
};

// Random values rounded to bf16, so that both kernels see the same numbers.
Problem MakeProblem(int64_t rows, int64_t cols, int64_t n, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  Problem p{rows, cols, n, {}, {}, {}, {}};
  for (int64_t i = 0; i < rows * cols; ++i) p.x16.push_back(F32ToBF16(normal(random)));
  for (int64_t i = 0; i < n * cols; ++i) p.w16.push_back(F32ToBF16(normal(random) * 0.1f));
  for (uint16_t bits : p.x16) p.x.push_back(BF16ToF32(bits));
  for (uint16_t bits : p.w16) p.w.push_back(BF16ToF32(bits));
  return p;
}

LinearArgs ArgsOf(const Problem& p, bool bf16, std::vector<float>* y) {
  y->assign(p.rows * p.n, std::nanf(""));
  return {.x = bf16 ? static_cast<const void*>(p.x16.data()) : p.x.data(),
          .x_stride = p.cols,
          .w = bf16 ? static_cast<const void*>(p.w16.data()) : p.w.data(),
          .y = y->data(),
          .y_stride = p.n,
          .rows = p.rows,
          .cols = p.cols,
          .n_begin = 0,
          .n_end = p.n};
}

// The definition in the header, word for word.
float LanesReference(const float* x, const float* w, int64_t cols) {
  float lane[16] = {};
  for (int64_t k = 0; k < (cols + 15) / 16 * 16; ++k) {
    const float a = k < cols ? x[k] : 0.0f;
    const float b = k < cols ? w[k] : 0.0f;
    lane[k % 16] = std::fma(a, b, lane[k % 16]);
  }
  for (int width = 8; width >= 1; width /= 2) {
    for (int l = 0; l < width; ++l) lane[l] += lane[l + width];
  }
  return lane[0];
}

bool SameBits(const float* a, const float* b, int64_t n) {
  return std::memcmp(a, b, n * sizeof(float)) == 0;
}

std::vector<float> RunTable(const KernelTable& table, const Problem& p, bool bf16) {
  std::vector<float> y;
  std::vector<float> scratch(kLinearTileRowsMax * (p.cols + 15) / 16 * 16 + 96);
  const LinearArgs args = ArgsOf(p, bf16, &y);
  (bf16 ? table.linear_bf16 : table.linear_f32)(args, scratch.data());
  return y;
}

TEST(Linear, EveryTableMatchesTheDefinitionBitForBit) {
  for (int64_t cols : {1, 15, 16, 17, 31, 64, 100, 512, 1027}) {
    const Problem p = MakeProblem(7, cols, 9, cols);
    std::vector<float> want;
    for (int64_t r = 0; r < p.rows; ++r) {
      for (int64_t j = 0; j < p.n; ++j) {
        want.push_back(LanesReference(&p.x[r * cols], &p.w[j * cols], cols));
      }
    }
    for (const KernelTable* table : SupportedTables()) {
      for (bool bf16 : {false, true}) {
        const std::vector<float> y = RunTable(*table, p, bf16);
        EXPECT_TRUE(SameBits(y.data(), want.data(), p.rows * p.n))
            << table->isa << " cols " << cols << " bf16 " << bf16;
      }
      EXPECT_EQ(table->dot_f32(p.x.data(), p.w.data(), cols), want[0]) << table->isa;
    }
  }
}

TEST(Linear, IsCloseToDoubleWithinTheSummationBound) {
  const Problem p = MakeProblem(3, 2048, 5, 4);
  for (const KernelTable* table : SupportedTables()) {
    const std::vector<float> y = RunTable(*table, p, true);
    for (int64_t r = 0; r < p.rows; ++r) {
      for (int64_t j = 0; j < p.n; ++j) {
        double sum = 0, magnitude = 0;
        for (int64_t k = 0; k < p.cols; ++k) {
          const double term = static_cast<double>(p.x[r * p.cols + k]) * p.w[j * p.cols + k];
          sum += term;
          magnitude += std::abs(term);
        }
        // A lane adds cols / 16 terms, the tree 4 more: each rounds by at most 2^-24 of the running
        // magnitude.
        const double bound = (p.cols / 16.0 + 4) * std::exp2(-24) * magnitude;
        EXPECT_NEAR(y[r * p.n + j], sum, bound) << table->isa;
      }
    }
  }
}

// One row's bits must not depend on how many rows go with it, on the range of outputs or on the
// threads.
TEST(Linear, RowBitsDoNotDependOnRowsRangesOrThreads) {
  for (const KernelTable* table : SupportedTables()) {
    const bool scalar = std::string(table->isa) == "scalar";
    const Problem all = MakeProblem(512, scalar ? 48 : 288, scalar ? 8 : 70, 7);
    for (bool bf16 : {false, true}) {
      const auto kernel = bf16 ? table->linear_bf16 : table->linear_f32;
      const std::vector<float> want = RunTable(*table, all, bf16);
      std::vector<int64_t> counts;
      for (int64_t rows = 1; rows <= 65; ++rows) counts.push_back(rows);
      counts.push_back(512);
      for (int threads : {1, 2}) {
        base::ThreadPool pool(threads);
        for (int64_t rows : counts) {
          std::vector<float> y;
          LinearArgs args = ArgsOf(all, bf16, &y);
          args.rows = rows;
          pool.ParallelFor(all.n, 3, [&](int64_t begin, int64_t end) {
            std::vector<float> scratch(kLinearTileRowsMax * (all.cols + 16));
            LinearArgs part = args;
            part.n_begin = begin;
            part.n_end = end;
            kernel(part, scratch.data());
          });
          ASSERT_TRUE(SameBits(y.data(), want.data(), rows * all.n))
              << table->isa << " bf16 " << bf16 << " rows " << rows << " threads " << threads;
          if (rows < all.rows) {
            ASSERT_TRUE(std::isnan(y[rows * all.n])) << "wrote past the last row";
          }
        }
      }
    }
  }
}

TEST(Linear, ExtremeValuesAgreeBetweenTables) {
  Problem p = MakeProblem(4, 40, 6, 11);
  // Overflow, denormals, signed zeros and an infinity.
  p.x[3] = 3e38f, p.x[19] = 3e38f, p.x[45] = 1e-42f, p.x[46] = -0.0f, p.x[90] = INFINITY;
  p.w[3] = 3e38f, p.w[5] = 1e-30f, p.w[45] = -1e-10f;
  const std::vector<float> want = RunTable(*SupportedTables().front(), p, false);
  for (const KernelTable* table : SupportedTables()) {
    const std::vector<float> y = RunTable(*table, p, false);
    for (size_t i = 0; i < y.size(); ++i) {
      if (std::isnan(want[i])) {
        EXPECT_TRUE(std::isnan(y[i])) << table->isa;
      } else {
        EXPECT_EQ(std::bit_cast<uint32_t>(y[i]), std::bit_cast<uint32_t>(want[i])) << table->isa;
      }
    }
  }
}

TEST(Linear, PublicFunctionsUseTheActiveTable) {
  const Problem p = MakeProblem(5, 77, 6, 3);
  const std::vector<float> want = RunTable(ActiveTable(), p, true);
  std::vector<float> y;
  LinearBf16(ArgsOf(p, true, &y));
  EXPECT_TRUE(SameBits(y.data(), want.data(), want.size()));
  LinearF32(ArgsOf(p, false, &y));
  EXPECT_TRUE(SameBits(y.data(), want.data(), want.size()));
  EXPECT_EQ(DotF32(p.x.data(), p.w.data(), p.cols), want[0]);
}

TEST(KernelTable, FindsByNameAndRefusesLoudly) {
  EXPECT_EQ(std::string((*FindTable("scalar"))->isa), "scalar");
  EXPECT_EQ(*FindTable(""), SupportedTables().back());
  const auto unknown = FindTable("sse9");
  ASSERT_FALSE(unknown.ok());
  EXPECT_EQ(unknown.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_NE(unknown.status().message().find("avx2"), absl::string_view::npos);
}

TEST(KernelTableDeathTest, WrongEnvironmentEndsTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        setenv("TANDEM_ISA", "avx9000", 1);
        ActiveTable();
      },
      testing::ExitedWithCode(2), "TANDEM_ISA: unknown instruction set \"avx9000\"");
}

}  // namespace
}  // namespace tandem::kernels
