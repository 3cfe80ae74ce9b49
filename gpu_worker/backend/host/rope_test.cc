#include "gpu_worker/backend/host/rope.h"

#include <gtest/gtest.h>

#include <cmath>

#include "gpu_worker/backend/host/bf16.h"
#include "lib/tensor/codec.h"

namespace tandem::gpu_worker {
namespace {

ModelConfig PlainConfig(int64_t dim) {
  ModelConfig config;
  config.qk_rope_head_dim = dim;
  config.rope_theta = 10000;
  return config;
}

TEST(RopeTest, RotatesPairsByPositionTimesFrequency) {
  const Rope rope(PlainConfig(4));
  ASSERT_EQ(rope.inverse_frequencies().size(), 2u);
  EXPECT_NEAR(rope.inverse_frequencies()[1], 0.01, 1e-15);
  const RopeRows rows = rope.ForPositions({0, 3});
  float v[4] = {1, 0, 0, 1};
  rope.Apply(rows, 0, v);
  EXPECT_EQ(v[0], 1.0f);
  EXPECT_EQ(v[3], 1.0f);
  rope.Apply(rows, 1, v);
  EXPECT_NEAR(v[0], std::cos(3.0), 1e-6);
  EXPECT_NEAR(v[1], std::sin(3.0), 1e-6);
  EXPECT_NEAR(v[2], -std::sin(0.03), 1e-6);
  EXPECT_NEAR(v[3], std::cos(0.03), 1e-6);
}

TEST(RopeTest, SplitHalvesIsThePermutedInterleaved) {
  ModelConfig split = PlainConfig(6);
  split.rope_layout = RopeLayout::kSplitHalves;
  const Rope a(PlainConfig(6)), b(split);
  const RopeRows rows = a.ForPositions({11});
  float x[6] = {1, 2, 3, 4, 5, 6}, y[6] = {1, 3, 5, 2, 4, 6};
  a.Apply(rows, 0, x);
  b.Apply(rows, 0, y);
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(x[2 * i], y[i]);
    EXPECT_EQ(x[2 * i + 1], y[i + 3]);
  }
}

// DeepSeek-V3's own numbers: 64 dimensions, base 10000, factor 40 over 4096 positions, turns
// between 32 and 1. The fractional indices are 64 ln(4096 / (2 pi turns)) / (2 ln 10000): 10.47 for
// 32 turns, 22.51 for 1; so index 10 and below keep their frequency, 23 and above are divided
// by 40.
TEST(RopeTest, YarnOfDeepSeekV3) {
  ModelConfig config = PlainConfig(64);
  config.yarn = {40, 4096, 32, 1, 1.0, 1.0, true};
  const Rope rope(config);
  const auto plain = [](int i) { return std::pow(10000.0, -2.0 * i / 64); };
  EXPECT_NEAR(rope.inverse_frequencies()[10], plain(10), 1e-12);
  EXPECT_NEAR(rope.inverse_frequencies()[23], plain(23) / 40, 1e-12);
  EXPECT_NEAR(rope.inverse_frequencies()[31], plain(31) / 40, 1e-12);
  const double ramp = (16.0 - 10) / (23 - 10);
  EXPECT_NEAR(rope.inverse_frequencies()[16], plain(16) * (ramp / 40 + 1 - ramp), 1e-12);
  EXPECT_DOUBLE_EQ(rope.attention_factor(), 1.0);
  config.yarn.mscale_all_dim = 0;
  EXPECT_NEAR(Rope(config).attention_factor(), 0.1 * std::log(40.0) + 1, 1e-12);
}

TEST(Bf16Test, EqualsTheCodecOnEveryUpperHalf) {
  for (uint32_t upper = 0; upper < 0x10000; ++upper) {
    for (const uint32_t lower : {0x0000u, 0x0001u, 0x7FFFu, 0x8000u, 0x8001u, 0xFFFFu}) {
      const float value = std::bit_cast<float>((upper << 16) | lower);
      ASSERT_EQ(Bf16Bits(value), F32ToBF16(value)) << std::hex << upper << " " << lower;
    }
  }
}

}  // namespace
}  // namespace tandem::gpu_worker
