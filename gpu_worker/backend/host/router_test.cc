#include "gpu_worker/backend/host/router.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace tandem::gpu_worker {
namespace {

using Ids = std::vector<uint32_t>;

ModelConfig Config(TopkMethod method, ScoringFunc scoring, int64_t experts, int64_t k) {
  ModelConfig config;
  config.topk_method = method;
  config.scoring_func = scoring;
  config.n_routed_experts = experts;
  config.num_experts_per_tok = k;
  return config;
}

TEST(RouterTest, GreedyBreaksTiesByLowerId) {
  const ModelConfig config = Config(TopkMethod::kGreedy, ScoringFunc::kSoftmax, 5, 3);
  EXPECT_EQ(ChooseExperts(config, std::vector<float>{1, 2, 2, 0, 1}, {}, {}).ids, (Ids{1, 2, 0}));
  EXPECT_EQ(ChooseExperts(config, std::vector<float>{0, 0, 0, 0, 0}, {}, {}).ids, (Ids{0, 1, 2}));
}

TEST(RouterTest, SoftmaxWeightsAreScoresOfAllExperts) {
  ModelConfig config = Config(TopkMethod::kGreedy, ScoringFunc::kSoftmax, 4, 2);
  config.routed_scaling_factor = 16;
  const std::vector<float> logits = {std::log(0.1f), std::log(0.2f), std::log(0.3f),
                                     std::log(0.4f)};
  const ExpertChoice choice = ChooseExperts(config, logits, {}, {});
  EXPECT_EQ(choice.ids, (Ids{3, 2}));
  EXPECT_NEAR(choice.weights[0], 16 * 0.4, 1e-5);
  EXPECT_NEAR(choice.weights[1], 16 * 0.3, 1e-5);
  // DeepSeek-V2's code scales or normalizes, not both.
  config.norm_topk_prob = true;
  EXPECT_NEAR(ChooseExperts(config, logits, {}, {}).weights[0], 0.4 / 0.7, 1e-5);
}

TEST(RouterTest, GroupLimitedGreedyKeepsTheGroupsWithTheBestMembers) {
  ModelConfig config = Config(TopkMethod::kGroupLimitedGreedy, ScoringFunc::kSoftmax, 6, 2);
  config.n_group = 3;
  config.topk_group = 1;
  // Expert 4 is the best, so only its group (4, 5) stays, although 0 and 2 beat 5.
  EXPECT_EQ(ChooseExperts(config, std::vector<float>{4, 0, 3, 0, 5, 1}, {}, {}).ids, (Ids{4, 5}));
}

TEST(RouterTest, NoAuxTcChoosesWithBiasAndWeighsWithout) {
  ModelConfig config = Config(TopkMethod::kNoAuxTc, ScoringFunc::kSigmoid, 6, 2);
  config.n_group = 3;
  config.topk_group = 1;
  config.norm_topk_prob = true;
  config.routed_scaling_factor = 2.5;
  const std::vector<float> logits = {3, -3, 1, 1, 0, 0}, no_bias(6, 0.0f);
  // Sums of two best: 0.95 + 0.05, 0.73 + 0.73, 1.0: the second group wins.
  ExpertChoice choice = ChooseExperts(config, logits, no_bias, {});
  EXPECT_EQ(choice.ids, (Ids{2, 3}));
  EXPECT_NEAR(choice.weights[0], 1.25, 1e-6);
  // A bias moves the choice to the last group; the weights stay those of the plain sigmoid.
  const std::vector<float> bias = {0, 0, 0, 0, 2, 1};
  choice = ChooseExperts(config, logits, bias, {});
  EXPECT_EQ(choice.ids, (Ids{4, 5}));
  EXPECT_NEAR(choice.weights[0], choice.weights[1], 1e-7);
}

TEST(RouterTest, NegativeBiasedScoresStillBeatMaskedGroups) {
  ModelConfig config = Config(TopkMethod::kNoAuxTc, ScoringFunc::kSigmoid, 4, 2);
  config.n_group = 2;
  config.topk_group = 1;
  const std::vector<float> bias = {-2, -2, -3, -3};
  EXPECT_EQ(ChooseExperts(config, std::vector<float>{0, 0, 0, 0}, bias, {}).ids, (Ids{0, 1}));
}

TEST(RouterTest, ForcedIdsAreWeighedByTheirScores) {
  const ModelConfig config = Config(TopkMethod::kGreedy, ScoringFunc::kSoftmax, 4, 2);
  const std::vector<float> logits = {std::log(0.1f), std::log(0.2f), std::log(0.3f),
                                     std::log(0.4f)};
  const ExpertChoice choice = ChooseExperts(config, logits, {}, Ids{0, 1});
  EXPECT_EQ(choice.ids, (Ids{0, 1}));
  EXPECT_NEAR(choice.weights[0], 0.1, 1e-6);
}

TEST(RouterTest, NanDoesNotBreakTheSort) {
  const ModelConfig config = Config(TopkMethod::kGreedy, ScoringFunc::kSigmoid, 4, 2);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_EQ(ChooseExperts(config, std::vector<float>{nan, 1, nan, 2}, {}, {}).ids, (Ids{3, 1}));
}

}  // namespace
}  // namespace tandem::gpu_worker
