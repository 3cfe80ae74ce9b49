// The host backend's forward pass in bf16 against float64 logits of five tiny models
// (tests/golden/make_logits.py). How large the difference may be is derived in tolerance.h. f32, on
// every backend: backend_test.cc.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "lib/kernels/onednn_linear.h"
#include "tests/engine/harness.h"
#include "tests/engine/tolerance.h"

namespace tandem::gpu_worker {
namespace {

class LogitsTest : public testing::TestWithParam<std::string> {};

double KlDivergence(const std::vector<double>& p_logits, const std::vector<float>& q_logits) {
  const auto log_sum = [](const auto& logits) {
    const double max = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const double x : logits) sum += std::exp(x - max);
    return max + std::log(sum);
  };
  const double lp = log_sum(p_logits), lq = log_sum(q_logits);
  double kl = 0;
  for (size_t i = 0; i < p_logits.size(); ++i) {
    kl += std::exp(p_logits[i] - lp) * ((p_logits[i] - lp) - (q_logits[i] - lq));
  }
  return kl;
}

// With logits off by at most a, the divergence is at most a^2 / 2: it is half the variance of the
// difference under a distribution between the two (Hoeffding's lemma gives (2a)^2 / 8). The error
// of one logit has the size |error of the row| / sqrt(vocab); a is three times that, as if every
// likely token were three standard deviations off.
void CheckBf16(const GoldenModel& golden, AttentionKernel attention,
               LinearKernel linear = LinearKernel::kNative) {
  HarnessOptions options;
  options.precision = Precision::kBf16;
  options.attention = attention;
  options.linear = linear;
  options.workers = 2;
  Harness harness(golden.weights, options);
  const LogitRows logits = RunGolden(harness, golden, /*forced=*/true, nullptr);
  // A value is off by u / sqrt(3) in the mean square when every position within half a unit is
  // equally likely.
  const double row_error = std::ldexp(1.0, -9) / std::sqrt(3.0) *
                           std::sqrt(RoundingsBf16(golden.weights.config)) * Kappa(golden);
  double worst = 0, mean = 0;
  for (size_t t = 0; t < logits.size(); ++t) {
    const double a = 3 * row_error * Norm(golden.logits[t]) / std::sqrt(double(logits[t].size()));
    const double kl = KlDivergence(golden.logits[t], logits[t]);
    EXPECT_LE(kl, a * a / 2) << "token " << t;
    worst = std::max(worst, kl / (a * a / 2));
    mean += kl / static_cast<double>(logits.size());
  }
  printf("  %s: mean KL %.3g nats, worst %.0f%% of its bound\n", golden.name.c_str(), mean,
         100 * worst);
}

TEST_P(LogitsTest, Bf16Flash) { CheckBf16(LoadGolden(GetParam()), AttentionKernel::kFlash); }
TEST_P(LogitsTest, Bf16Reference) {
  CheckBf16(LoadGolden(GetParam()), AttentionKernel::kReference);
}

TEST_P(LogitsTest, Bf16OneDnn) {
  if (!kernels::OneDnnLinear::Available()) {
    GTEST_SKIP() << "oneDNN has no bf16 matmul on this processor";
  }
  CheckBf16(LoadGolden(GetParam()), AttentionKernel::kFlash, LinearKernel::kOneDnn);
}

// The golden models are stored in f32: weights stay so, inputs are rounded to bf16.
TEST_P(LogitsTest, Bf16Stored) {
  CheckBf16(LoadGolden(GetParam()), AttentionKernel::kFlash, LinearKernel::kStored);
}

INSTANTIATE_TEST_SUITE_P(Golden, LogitsTest, testing::ValuesIn(GoldenNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tandem::gpu_worker
