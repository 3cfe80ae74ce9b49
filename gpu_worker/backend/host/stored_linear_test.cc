#include "gpu_worker/backend/host/stored_linear.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "lib/kernels/random_blocks.h"
#include "lib/kernels/weights.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker {
namespace {

Matrix MatrixOf(DType type, int64_t rows, int64_t cols, const std::vector<std::byte>& bytes) {
  Matrix matrix;
  matrix.view.name = "test.weight";
  matrix.view.file = "test.gguf";
  matrix.view.dtype = type;
  matrix.view.shape = {rows, cols};
  matrix.view.data = bytes.data();
  matrix.view.size_bytes = static_cast<int64_t>(bytes.size());
  return matrix;
}

// Outputs that are no multiple of a panel, rows around the places where row tiles begin: every
// row's bits are those it has alone, and near double arithmetic.
TEST(StoredLinear, RowsAreIndependentAndRight) {
  std::mt19937_64 random(1);
  std::normal_distribution<float> normal;
  constexpr int64_t kOuts = 83, kCols = 512, kRows = 35, kStride = 600, kYStride = 90;
  for (const DType type : {DType::kQ8_0, DType::kQ4_K, DType::kQ6_K, DType::kBF16, DType::kF32}) {
    const std::vector<std::byte> bytes = kernels::RandomRows(type, kOuts, kCols, 0.01f, -1, random);
    const Matrix matrix = MatrixOf(type, kOuts, kCols, bytes);
    base::ThreadPool pool(2);
    const auto linear = StoredLinear::Create(matrix, pool);
    ASSERT_TRUE(linear.ok()) << linear.status();
    std::vector<float> x(kRows * kStride, NAN);
    for (int64_t r = 0; r < kRows; ++r) {
      for (int64_t k = 0; k < kCols; ++k) {
        x[r * kStride + k] = BF16ToF32(F32ToBF16(normal(random)));
      }
    }
    kernels::MatrixInput input;
    std::vector<float> want(kRows * kYStride), w(kCols);
    for (int64_t r = 0; r < kRows; ++r) {
      (*linear)->Apply(pool, input, &x[r * kStride], kStride, 1, &want[r * kYStride], kYStride);
    }
    for (int64_t o = 0; o < kOuts; ++o) {
      DequantizeMatrixRow(matrix, o, w.data());
      for (int64_t r = 0; r < kRows; ++r) {
        double exact = 0, bound = 0;
        for (int64_t k = 0; k < kCols; ++k) {
          exact += static_cast<double>(w[k]) * x[r * kStride + k];
          float largest = 0;  // of the 32 inputs with one scale
          for (int64_t i = k / 32 * 32; i < k / 32 * 32 + 32; ++i) {
            largest = std::max(largest, std::abs(x[r * kStride + i]));
          }
          // Half a step of int8, and of f32 sums a thousandth of that.
          bound += std::abs(w[k]) * largest / 127 * 0.501;
        }
        ASSERT_NEAR(want[r * kYStride + o], exact, bound) << NameOf(type) << " " << r << " " << o;
      }
    }
    for (int64_t rows = 1; rows <= kRows; ++rows) {
      std::vector<float> got(rows * kYStride, NAN);
      (*linear)->Apply(pool, input, x.data(), kStride, rows, got.data(), kYStride);
      for (int64_t r = 0; r < rows; ++r) {
        ASSERT_EQ(std::memcmp(&got[r * kYStride], &want[r * kYStride], kOuts * 4), 0)
            << NameOf(type) << " row " << r << " of " << rows;
        for (int64_t o = kOuts; o < kYStride; ++o) ASSERT_TRUE(std::isnan(got[r * kYStride + o]));
      }
    }
  }
}

TEST(StoredLinear, NamesTheTensorItCannotTake) {
  const std::vector<std::byte> bytes(4 * 34 * 3);
  base::ThreadPool pool(1);
  Matrix matrix = MatrixOf(DType::kI32, 3, 32, bytes);
  absl::Status status = StoredLinear::Create(matrix, pool).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
  EXPECT_NE(status.message().find("test.weight"), absl::string_view::npos) << status;
  Matrix narrow = MatrixOf(DType::kF8E4M3, 3, 32, bytes);
  narrow.fp8_block_rows = 3;
  narrow.fp8_block_cols = 16;  // a scale would change inside the columns multiplied at a time
  status = StoredLinear::Create(narrow, pool).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented) << status;
  std::vector<std::byte> infinite(3 * 34);
  infinite[35] = std::byte{0x7c};  // the scale of the second row: f16 infinity
  status = StoredLinear::Create(MatrixOf(DType::kQ8_0, 3, 32, infinite), pool).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kDataLoss) << status;
}

}  // namespace
}  // namespace tandem::gpu_worker
