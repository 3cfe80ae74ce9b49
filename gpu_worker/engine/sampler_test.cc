#include "gpu_worker/engine/sampler.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <vector>

#include "gpu_worker/engine/philox.h"

namespace tandem::gpu_worker {
namespace {

using sampling::v1::SamplingParams;

// The known answers published with the Random123 library (kat_vectors).
TEST(PhiloxTest, KnownAnswers) {
  EXPECT_EQ(Philox4x32({0, 0, 0, 0}, {0, 0}),
            (PhiloxCounter{0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}));
  EXPECT_EQ(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
            (PhiloxCounter{0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}));
  EXPECT_EQ(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
            (PhiloxCounter{0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}));
}

TEST(PhiloxTest, UniformStaysInRange) {
  double sum = 0;
  for (uint64_t i = 0; i < 10000; ++i) {
    const double u = UniformAt(77, i);
    ASSERT_GE(u, 0.0);
    ASSERT_LT(u, 1.0);
    sum += u;
  }
  EXPECT_NEAR(sum / 10000, 0.5, 5 * 0.2887 / 100);  // five standard errors
}

uint32_t Sample(const std::vector<float>& logits, const SamplingParams& params,
                const std::vector<uint32_t>& tokens = {}, int64_t prompt_tokens = 0) {
  return SampleToken({logits, &params, tokens, prompt_tokens});
}

TEST(SamplerTest, GreedyTakesTheLowestIdOnATie) {
  EXPECT_EQ(Sample({1, 3, 2, 3}, {}), 1u);
  EXPECT_EQ(Sample({5, 3, 2, 3}, {}), 0u);
}

TEST(SamplerTest, BiasAndPenaltiesMoveTheGreedyChoice) {
  SamplingParams bias;
  (*bias.mutable_logit_bias())[2] = 10;
  EXPECT_EQ(Sample({1, 3, 2}, bias), 2u);

  SamplingParams repetition;
  repetition.set_repetition_penalty(2);
  EXPECT_EQ(Sample({3, 2, 0}, repetition, {0}, 1), 1u);        // 3 / 2 < 2
  EXPECT_EQ(Sample({-1, -1.5f, -3}, repetition, {0}, 1), 1u);  // -1 * 2 < -1.5
  // Once, however often the token was seen.
  EXPECT_EQ(Sample({3, 1, 0}, repetition, {0, 0, 0}, 3), 0u);

  SamplingParams presence;
  presence.set_presence_penalty(1.5f);
  EXPECT_EQ(Sample({3, 2, 0}, presence, {0}, 1), 0u);  // only the prompt has it
  EXPECT_EQ(Sample({3, 2, 0}, presence, {2, 0, 0}, 1), 1u);
  SamplingParams frequency;
  frequency.set_frequency_penalty(0.6f);
  EXPECT_EQ(Sample({3, 2, 0}, frequency, {2, 0}, 1), 0u);
  EXPECT_EQ(Sample({3, 2, 0}, frequency, {2, 0, 0}, 1), 1u);
}

// Draws at many positions; returns how often each token came.
std::map<uint32_t, int> Draw(const std::vector<float>& logits, const SamplingParams& params,
                             int count) {
  std::map<uint32_t, int> seen;
  std::vector<uint32_t> tokens;
  for (int i = 0; i < count; ++i) {
    ++seen[Sample(logits, params, tokens, 0)];
    tokens.push_back(0);
  }
  return seen;
}

TEST(SamplerTest, DrawsFollowTheDistribution) {
  const std::vector<float> logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f),
                                     std::log(0.05f)};
  const double expected[] = {0.5, 0.3, 0.15, 0.05};
  SamplingParams params;
  params.set_temperature(1);
  params.set_seed(3);
  constexpr int kCount = 20000;
  double chi_square = 0;
  for (const auto& [token, count] : Draw(logits, params, kCount)) {
    const double want = expected[token] * kCount;
    chi_square += (count - want) * (count - want) / want;
  }
  EXPECT_LT(chi_square, 16.27);  // 3 degrees of freedom, p = 0.001
}

TEST(SamplerTest, FiltersKeepWhatTheySay) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.3f),
                                     std::log(0.2f)};
  const auto tokens = [&](const SamplingParams& params) {
    std::vector<uint32_t> ids;
    for (const auto& [token, count] : Draw(logits, params, 2000)) ids.push_back(token);
    return ids;
  };
  SamplingParams p;
  p.set_temperature(1);
  EXPECT_EQ(tokens(p), (std::vector<uint32_t>{0, 1, 2, 3}));
  p.set_top_k(2);
  EXPECT_EQ(tokens(p), (std::vector<uint32_t>{1, 2}));
  p.set_top_k(0);
  p.set_top_p(0.69f);
  EXPECT_EQ(tokens(p), (std::vector<uint32_t>{1, 2}));
  p.set_top_p(0.71f);
  EXPECT_EQ(tokens(p), (std::vector<uint32_t>{1, 2, 3}));
  p.set_top_p(0);
  p.set_min_p(0.6f);  // 0.3 / 0.4 stays, 0.2 / 0.4 goes
  EXPECT_EQ(tokens(p), (std::vector<uint32_t>{1, 2}));
  p.set_min_p(0);
  p.set_top_k(3);
  p.set_top_p(0.75f);  // of 0.9: 0.4 + 0.3 = 0.78 of it
  EXPECT_EQ(tokens(p), (std::vector<uint32_t>{1, 2}));
}

TEST(SamplerTest, TheDrawDependsOnSeedAndPosition) {
  const std::vector<float> logits(1000, 0.0f);
  SamplingParams p;
  p.set_temperature(1);
  p.set_seed(1);
  const uint32_t first = Sample(logits, p, {5}, 1);
  EXPECT_EQ(Sample(logits, p, {9}, 1), first);  // other history, same position
  EXPECT_NE(Sample(logits, p, {5, 5}, 1), first);
  p.set_seed(2);
  EXPECT_NE(Sample(logits, p, {5}, 1), first);
}

TEST(SamplerTest, LogprobsOfRawLogits) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.3f),
                                     std::log(0.2f)};
  const auto result = Logprobs(logits, 3, 2);
  EXPECT_EQ(result.chosen().token_id(), 3u);
  EXPECT_NEAR(result.chosen().logprob(), std::log(0.2), 1e-6);
  ASSERT_EQ(result.top_size(), 2);
  EXPECT_EQ(result.top(0).token_id(), 1u);
  EXPECT_NEAR(result.top(0).logprob(), std::log(0.4), 1e-6);
  EXPECT_EQ(result.top(1).token_id(), 2u);
}

TEST(SamplerTest, LogprobsOfTokensAskedForById) {
  const std::vector<float> logits = {std::log(0.1f), std::log(0.4f), std::log(0.3f),
                                     std::log(0.2f)};
  const std::vector<uint32_t> ids = {3, 0, 3};
  const auto result = Logprobs(logits, 1, 0, ids);
  EXPECT_EQ(result.top_size(), 0);
  ASSERT_EQ(result.listed_size(), 3);
  EXPECT_EQ(result.listed(0).token_id(), 3u);
  EXPECT_NEAR(result.listed(0).logprob(), std::log(0.2), 1e-6);
  EXPECT_EQ(result.listed(1).token_id(), 0u);
  EXPECT_NEAR(result.listed(1).logprob(), std::log(0.1), 1e-6);
  EXPECT_EQ(result.listed(2).logprob(), result.listed(0).logprob());
}

TEST(SamplerTest, LogitsThatAreNotFiniteAreRefused) {
  EXPECT_TRUE(CheckLogits(std::vector<float>{1, 2}).ok());
  EXPECT_EQ(CheckLogits(std::vector<float>{1, NAN}).code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(CheckLogits(std::vector<float>{1, HUGE_VALF}).code(), absl::StatusCode::kDataLoss);
}

}  // namespace
}  // namespace tandem::gpu_worker
