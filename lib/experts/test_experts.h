// Experts of random weights for tests: owned bytes behind the same views a weight file gives, and
// the same experts packed.
#pragma once

#include <algorithm>
#include <cmath>
#include <memory>
#include <random>
#include <vector>

#include "lib/experts/test_packing.h"
#include "lib/kernels/random_blocks.h"
#include "lib/model/model_weights.h"

namespace tandem {

struct TestExpert {
  std::vector<std::unique_ptr<std::vector<std::byte>>> bytes;
  FfnWeights weights;
  std::unique_ptr<PackedCopy> copy;
  PackedExpert packed;
};

inline Matrix TestMatrix(DType type, int64_t rows, int64_t cols, float scale,
                         std::mt19937_64& random, TestExpert* owner) {
  owner->bytes.push_back(std::make_unique<std::vector<std::byte>>(
      kernels::RandomRows(type, rows, cols, scale, -1, random)));
  Matrix matrix;
  matrix.view.name = "test";
  matrix.view.dtype = type;
  matrix.view.shape = {rows, cols};
  matrix.view.data = owner->bytes.back()->data();
  matrix.view.size_bytes = static_cast<int64_t>(owner->bytes.back()->size());
  if (type == DType::kF8E4M3) {
    constexpr int64_t kBlock = 128;
    matrix.fp8_block_rows = matrix.fp8_block_cols = kBlock;
    const int64_t row_blocks = (rows + kBlock - 1) / kBlock,
                  col_blocks = (cols + kBlock - 1) / kBlock;
    owner->bytes.push_back(std::make_unique<std::vector<std::byte>>(
        kernels::RandomRows(DType::kF32, row_blocks, col_blocks, 1.0f, -1, random)));
    TensorView scales;
    scales.dtype = DType::kF32;
    scales.shape = {row_blocks, col_blocks};
    scales.data = owner->bytes.back()->data();
    scales.size_bytes = static_cast<int64_t>(owner->bytes.back()->size());
    matrix.scale_inv = scales;
  }
  return matrix;
}

// Size of a block's scale that gives weights of about 1 / sqrt(cols) whatever the format's codes
// are.
inline float TestScale(DType type, int64_t cols, std::mt19937_64& random) {
  TestExpert probe;
  const Matrix matrix = TestMatrix(type, 4, cols, 0.01f, random, &probe);
  std::vector<float> row(cols);
  double squares = 0;
  for (int64_t r = 0; r < 4; ++r) {
    DequantizeMatrixRow(matrix, r, row.data());
    for (float value : row) squares += static_cast<double>(value) * value;
  }
  return static_cast<float>(0.01 / std::sqrt(squares / 4.0));
}

inline TestExpert MakeTestExpert(DType gate, DType up, DType down, int64_t hidden, int64_t inter,
                                 std::mt19937_64& random) {
  TestExpert expert;
  const float gate_scale = TestScale(gate, hidden, random);
  const float up_scale = TestScale(up, hidden, random);
  const float down_scale = TestScale(down, inter, random);
  expert.weights.gate = TestMatrix(gate, inter, hidden, gate_scale, random, &expert);
  expert.weights.up = TestMatrix(up, inter, hidden, up_scale, random, &expert);
  expert.weights.down = TestMatrix(down, hidden, inter, down_scale, random, &expert);
  expert.copy = std::make_unique<PackedCopy>(expert.weights);
  expert.packed = expert.copy->expert;
  return expert;
}

}  // namespace tandem
