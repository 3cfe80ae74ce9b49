// Block-scaled fp8 against torch: the same bits.
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "lib/model/model_weights.h"

namespace tandem {
namespace {

void ExpectEqualToTorch(const std::string& name, int64_t block_rows, int64_t block_cols) {
  const char* root = std::getenv("TANDEM_SOURCE_DIR");
  const auto source = TensorSource::Open(std::string(root != nullptr ? root : ".") +
                                         "/tests/golden/fp8/fp8.safetensors");
  ASSERT_TRUE(source.ok()) << source.status();
  const TensorView* weight = (*source)->Find(name + ".weight");
  const TensorView* scale = (*source)->Find(name + ".weight_scale_inv");
  const TensorView* expected = (*source)->Find(name + ".expected");
  ASSERT_TRUE(weight != nullptr && scale != nullptr && expected != nullptr);
  ASSERT_EQ(weight->dtype, DType::kF8E4M3);
  const Matrix matrix{*weight, *scale, block_rows, block_cols};
  std::vector<float> row(matrix.cols()), torch_row(matrix.cols());
  for (int64_t r = 0; r < matrix.rows(); ++r) {
    DequantizeMatrixRow(matrix, r, row.data());
    std::memcpy(torch_row.data(), expected->data + r * expected->row_bytes(),
                expected->row_bytes());
    for (int64_t col = 0; col < matrix.cols(); ++col)
      ASSERT_EQ(std::memcmp(&row[col], &torch_row[col], sizeof(float)), 0)
          << name << " row " << r << " column " << col << ": expected " << torch_row[col]
          << ", found " << row[col];
  }
}

TEST(Fp8Golden, WholeBlocks) { ExpectEqualToTorch("whole", 16, 16); }
TEST(Fp8Golden, RaggedBlocks) { ExpectEqualToTorch("ragged", 16, 32); }

}  // namespace
}  // namespace tandem
