// What is asked for: as little as decides the token, whole rows where nothing less does.
#include "gpu_worker/engine/logit_needs.h"

#include <gtest/gtest.h>

#include <functional>
#include <numeric>

namespace tandem::gpu_worker {
namespace {

using sampling::v1::SamplingParams;

constexpr int64_t kVocab = 1000;

LogitNeeds Needs(const std::function<void(SamplingParams&)>& set,
                 const std::vector<uint32_t>& tokens = {}, int64_t prompt_tokens = 0,
                 int64_t vocab = kVocab) {
  SamplingParams params;
  set(params);
  return NeedsOf({{}, &params, tokens, prompt_tokens}, vocab);
}

void ExpectNeeds(const LogitNeeds& found, bool whole, int64_t best, bool weight_sum,
                 bool log_sum = false) {
  EXPECT_EQ(found.whole, whole);
  if (whole) return;
  EXPECT_EQ(found.best, best);
  EXPECT_EQ(found.weight_sum, weight_sum);
  EXPECT_EQ(found.log_sum, log_sum);
}

TEST(LogitNeedsTest, GreedyTakesOneToken) {
  ExpectNeeds(Needs([](auto&) {}), false, 1, false);
  ExpectNeeds(Needs([](auto& p) { p.set_top_k(500), p.set_top_p(0.5f), p.set_min_p(0.1f); }), false,
              1, false);
}

TEST(LogitNeedsTest, TopKTakesThatMany) {
  for (const float top_p : {0.0f, 0.9f}) {
    const auto with = [=](uint32_t k) {
      return Needs([=](auto& p) { p.set_temperature(1), p.set_top_k(k), p.set_top_p(top_p); });
    };
    ExpectNeeds(with(1), false, 1, false);
    ExpectNeeds(with(64), false, 64, false);
    ExpectNeeds(with(65), true, 0, false);
    ExpectNeeds(with(999), true, 0, false);
  }
}

TEST(LogitNeedsTest, WithoutTopKTheWalkMayEndAnywhere) {
  for (const uint32_t k : {0, 1000, 2000}) {  // all of them keep all
    const auto with = [=](float top_p, float min_p) {
      return Needs([=](auto& p) {
        p.set_temperature(0.6f), p.set_top_k(k), p.set_top_p(top_p), p.set_min_p(min_p);
      });
    };
    ExpectNeeds(with(0.95f, 0), false, 64, true);
    ExpectNeeds(with(0.95f, 0.1f), false, 64, true);
    ExpectNeeds(with(0, 0.1f), false, 64, false);
    ExpectNeeds(with(1, 0), false, 64, k == 0);
  }
}

TEST(LogitNeedsTest, LogProbabilities) {
  ExpectNeeds(Needs([](auto& p) { p.set_logprobs(true); }), false, 1, false, true);
  ExpectNeeds(Needs([](auto& p) { p.set_top_logprobs(20); }), false, 20, false, true);
  ExpectNeeds(Needs([](auto& p) { p.set_top_logprobs(65); }), true, 0, false);
  ExpectNeeds(Needs([](auto& p) { p.add_logprob_token_ids(7); }), false, 1, false, true);
  ExpectNeeds(Needs([](auto& p) { p.set_temperature(1), p.set_top_k(30), p.set_top_logprobs(5); }),
              false, 30, false, true);
}

TEST(LogitNeedsTest, TouchedTokensAreAskedForByName) {
  const std::vector<uint32_t> tokens = {9, 5, 9, 2, 3, 3};
  using Ids = std::vector<uint32_t>;
  const auto touched = [&](const std::function<void(SamplingParams&)>& set) {
    const LogitNeeds needs = Needs(set, tokens, 4);
    EXPECT_FALSE(needs.whole);
    EXPECT_EQ(needs.best, needs.touched.empty() ? 1 : 64);
    return needs.touched;
  };
  EXPECT_EQ(touched([](auto&) {}), Ids{});
  EXPECT_EQ(touched([](auto& p) { p.set_repetition_penalty(1); }), Ids{});
  EXPECT_EQ(touched([](auto& p) { p.set_repetition_penalty(1.1f); }), (Ids{2, 3, 5, 9}));
  EXPECT_EQ(touched([](auto& p) { p.set_presence_penalty(1); }), Ids{3});
  EXPECT_EQ(touched([](auto& p) { p.set_frequency_penalty(-1); }), Ids{3});
  EXPECT_EQ(touched([](auto& p) {
              (*p.mutable_logit_bias())[7] = 1;
              (*p.mutable_logit_bias())[3] = 1;
              p.set_presence_penalty(1);
            }),
            (Ids{3, 7}));
  // A penalty on an answer that has not begun touches nothing.
  ExpectNeeds(Needs([](auto& p) { p.set_presence_penalty(1); }, {1, 2}, 2), false, 1, false);
}

TEST(LogitNeedsTest, TooManyTouchedTokensTakeTheRow) {
  std::vector<uint32_t> tokens(kTouchedMax);
  std::iota(tokens.begin(), tokens.end(), 0u);
  const auto penalty = [](auto& p) { p.set_repetition_penalty(2); };
  EXPECT_FALSE(Needs(penalty, tokens, 1, 100000).whole);
  tokens.push_back(kTouchedMax);
  EXPECT_TRUE(Needs(penalty, tokens, 1, 100000).whole);
  EXPECT_TRUE(Needs(penalty, tokens, 1, 100000).touched.empty());
}

TEST(LogitNeedsTest, ASmallVocabularyIsKnownInFull) {
  ExpectNeeds(Needs([](auto& p) { p.set_temperature(1); }, {}, 0, 10), false, 10, true);
  ExpectNeeds(Needs([](auto& p) { p.set_temperature(1), p.set_top_k(20); }, {}, 0, 10), false, 10,
              false);
  ExpectNeeds(Needs([](auto& p) { p.set_top_logprobs(10); }, {}, 0, 10), false, 10, false, true);
}

}  // namespace
}  // namespace tandem::gpu_worker
