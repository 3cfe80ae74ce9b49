#include "lib/kernels/activation.h"

#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "gtest/gtest.h"
#include "lib/kernels/kernel_table.h"

namespace tandem::kernels {
namespace {

// Every 1021st f32 bit pattern: 4.2 million values of all magnitudes, both signs, NaNs and
// infinities among them.
std::vector<float> SampledFloats() {
  std::vector<float> values;
  for (uint64_t bits = 0; bits < (uint64_t{1} << 32); bits += 1021) {
    values.push_back(std::bit_cast<float>(static_cast<uint32_t>(bits)));
  }
  for (float v : {0.0f, -0.0f, INFINITY, -INFINITY, 88.7f, 88.70001f, -87.3f, -87.30001f}) {
    values.push_back(v);
  }
  return values;
}

TEST(Activation, ExpAgreesBetweenTablesAndIsWithinTwoUlp) {
  const std::vector<float> x = SampledFloats();
  std::vector<float> want(x.size());
  SupportedTables().front()->exp_shifted(x.data(), 0.0f, want.data(), x.size());
  double worst_ulp = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    if (std::isnan(x[i])) {
      ASSERT_TRUE(std::isnan(want[i]));
    } else if (x[i] > 88.7f) {
      ASSERT_EQ(want[i], std::numeric_limits<float>::infinity()) << x[i];
    } else if (x[i] < -87.3f) {
      ASSERT_EQ(want[i], 0.0f) << x[i];
    } else {
      const double exact = std::exp(static_cast<double>(x[i]));
      const double ulp = std::exp2(std::floor(std::log2(exact)) - 23);
      worst_ulp = std::max(worst_ulp, std::abs(want[i] - exact) / ulp);
    }
  }
  EXPECT_LT(worst_ulp, 2.0);
  EXPECT_GT(worst_ulp, 0.5);  // else the comparison itself is broken
  for (const KernelTable* table : SupportedTables()) {
    std::vector<float> got(x.size());
    table->exp_shifted(x.data(), 0.0f, got.data(), x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      if (std::isnan(want[i])) continue;
      ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(want[i]))
          << table->isa << " exp(" << x[i] << ")";
    }
  }
}

TEST(Activation, SwiGluAndSigmoidAgreeBetweenTables) {
  std::mt19937_64 random(5);
  std::normal_distribution<float> normal(0, 20);
  std::vector<float> gate, up;
  for (int i = 0; i < 100003; ++i) {
    gate.push_back(normal(random));
    up.push_back(normal(random));
  }
  std::vector<float> want(gate.size());
  SupportedTables().front()->swiglu(gate.data(), up.data(), want.data(), gate.size());
  for (size_t i = 0; i < gate.size(); ++i) {
    const double exact = static_cast<double>(gate[i]) / (1 + std::exp(-double{gate[i]})) * up[i];
    ASSERT_NEAR(want[i], exact, std::abs(exact) * 1e-6 + 1e-35);
  }
  for (const KernelTable* table : SupportedTables()) {
    std::vector<float> got = gate;
    table->swiglu(got.data(), up.data(), got.data(), got.size());  // in place
    for (size_t i = 0; i < gate.size(); ++i) {
      ASSERT_EQ(std::bit_cast<uint32_t>(got[i]), std::bit_cast<uint32_t>(want[i])) << table->isa;
    }
    for (float x : {-100.0f, -3.5f, 0.0f, 1e-8f, 0.7f, 30.0f, 100.0f}) {
      EXPECT_EQ(table->sigmoid(x), SupportedTables().front()->sigmoid(x)) << table->isa;
    }
  }
}

TEST(Activation, PublicFunctions) {
  EXPECT_EQ(Exp(0.0f), 1.0f);
  EXPECT_EQ(Sigmoid(0.0f), 0.5f);
  EXPECT_NEAR(Sigmoid(2.0f), 1 / (1 + std::exp(-2.0)), 1e-7);
  const float x[5] = {1, 2, 3, 4, 5};
  float out[5];
  ExpShifted(x, 5.0f, out, 5);
  for (int i = 0; i < 5; ++i) EXPECT_EQ(out[i], Exp(x[i] - 5.0f));
  EXPECT_EQ(out[4], 1.0f);
}

}  // namespace
}  // namespace tandem::kernels
