#include "bench/expert_set.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "bench/layer_run.h"
#include "lib/kernels/packed.h"
#include "lib/tensor/codec.h"

namespace tandem::bench {
namespace {

using ::testing::HasSubstr;

TEST(ExpertShapeTest, ShortRowsGetSmallBlocks) {
  // llama.cpp's replacements, for the 1408 columns of V2-Lite's down projection.
  const std::pair<const char*, DType> expected[] = {
      {"q4_K", DType::kQ5_0},      {"q6_K", DType::kQ8_0},    {"q5_K", DType::kQ5_1},
      {"q2_K", DType::kQ4_0},      {"q3_K", DType::kQ4_0},    {"iq1_s", DType::kIQ4_NL},
      {"iq2_xxs", DType::kIQ4_NL}, {"iq3_s", DType::kIQ4_NL}, {"bf16", DType::kBF16}};
  for (const auto& [name, down] : expected) {
    const absl::StatusOr<ExpertShape> shape = ExpertShapeOf(name, 2048, 1408);
    ASSERT_TRUE(shape.ok()) << shape.status();
    EXPECT_EQ(NameOf(shape->gate_up), std::string(name));
    EXPECT_EQ(shape->down, down) << name;
  }
  EXPECT_EQ(ExpertShapeOf("q4_K", 7168, 2048)->down, DType::kQ4_K);
  EXPECT_EQ(ExpertShapeOf("fp8", 256, 256)->gate_up, DType::kF8E4M3);
  EXPECT_THAT(std::string(ExpertShapeOf("q9", 256, 256).status().message()), HasSubstr("q9"));
}

TEST(ExpertSetTest, ExpertsArePackedAndCopied) {
  const ExpertShape shape = *ExpertShapeOf("q4_K", 256, 256);
  const std::vector<StoredExpert> stored = {MakeStoredExpert(shape, 1), MakeStoredExpert(shape, 2)};
  EXPECT_NE(stored[0].gate, stored[1].gate);
  base::ThreadPool pool(2);
  const absl::StatusOr<ExpertSet> set = ExpertSet::Create(shape, stored, 1, 4, &pool);
  ASSERT_TRUE(set.ok()) << set.status();
  ASSERT_EQ(set->size(), 4);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(
        std::memcmp(set->Bytes(i, 1).data(), set->Bytes(i + 2, 1).data(), set->Bytes(i, 1).size()),
        0);
    const kernels::PackedMatrix& down = set->expert(i).down;
    std::vector<float> panel(kernels::kPanelRows * shape.inter), row(shape.inter);
    kernels::UnpackPanel(down.layout, down.panel(0), panel.data());
    DequantizeRow(shape.down, stored[i].down.data(), shape.inter, row.data());
    EXPECT_EQ(std::memcmp(panel.data(), row.data(), row.size() * sizeof(float)), 0);
  }
}

// Every row goes through all experts of the group: the mean of their outputs, as f32 sees it.
TEST(LayerRunTest, OutputIsTheMeanOverExperts) {
  constexpr int64_t kHidden = 256, kInter = 256;
  const ExpertShape shape = *ExpertShapeOf("bf16", kHidden, kInter);
  const std::vector<StoredExpert> stored = {MakeStoredExpert(shape, 1), MakeStoredExpert(shape, 2)};
  base::ThreadPool pool(1);
  const ExpertSet set = *ExpertSet::Create(shape, stored, 1, 2, &pool);
  std::vector<float> x = RandomInputs(kHidden, 3);
  for (float& value : x) value = BF16ToF32(F32ToBF16(value));
  LayerRun layer(kernels::ActiveTable(), &pool, x, kHidden, 2);
  EXPECT_GT(layer.Run(set, 0), 0.0);
  const auto dot = [](const std::vector<std::byte>& rows, int64_t row,
                      const std::vector<float>& v) {
    std::vector<float> weights(v.size());
    DequantizeRow(DType::kBF16, rows.data() + row * v.size() * 2, v.size(), weights.data());
    double sum = 0;
    for (size_t i = 0; i < v.size(); ++i) sum += static_cast<double>(weights[i]) * v[i];
    return static_cast<float>(sum);
  };
  std::vector<double> expected(kHidden);
  for (const StoredExpert& expert : stored) {
    std::vector<float> middle(kInter);
    for (int64_t i = 0; i < kInter; ++i) {
      const float gate = dot(expert.gate, i, x), up = dot(expert.up, i, x);
      middle[i] = gate / (1 + std::exp(-gate)) * up;
    }
    for (int64_t i = 0; i < kHidden; ++i) expected[i] += dot(expert.down, i, middle) / 2;
  }
  double error = 0, size = 0;
  const std::vector<float> y = layer.Output();
  for (int64_t i = 0; i < kHidden; ++i) {
    error += (y[i] - expected[i]) * (y[i] - expected[i]);
    size += expected[i] * expected[i];
  }
  // The activations between are rounded to bf16: 2^-9 relative, by chance a little more in norm.
  EXPECT_LT(std::sqrt(error / size), 0.01);
}

}  // namespace
}  // namespace tandem::bench
