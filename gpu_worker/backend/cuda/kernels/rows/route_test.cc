// Routing: the choices and the bits of the host's ChooseExperts.
#include <gtest/gtest.h>

#include "gpu_worker/backend/cuda/kernels/rows/rows_test_support.h"
#include "gpu_worker/backend/host/router.h"

namespace tandem::gpu_worker::cuda {
namespace {

ModelConfig Config(TopkMethod method, ScoringFunc scoring, int64_t experts, int64_t per_token,
                   int64_t groups, int64_t kept) {
  ModelConfig config;
  config.topk_method = method;
  config.scoring_func = scoring;
  config.n_routed_experts = experts;
  config.num_experts_per_tok = per_token;
  config.n_group = groups;
  config.topk_group = kept;
  config.routed_scaling_factor = 2.5;
  return config;
}

struct Choices {
  std::vector<uint32_t> ids;
  std::vector<float> weights;
};

struct Problem {
  ModelConfig config;
  int64_t rows;
  std::vector<float> logits = {}, bias = {};
  std::vector<uint32_t> forced = {};  // empty: none
};

Choices OnHost(const Problem& p) {
  Choices all;
  const int64_t experts = p.config.n_routed_experts, k = p.config.num_experts_per_tok;
  for (int64_t r = 0; r < p.rows; ++r) {
    std::span<const uint32_t> forced;
    if (!p.forced.empty()) forced = std::span(p.forced).subspan(r * k, k);
    const ExpertChoice row =
        ChooseExperts(p.config, std::span(p.logits).subspan(r * experts, experts), p.bias, forced);
    all.ids.insert(all.ids.end(), row.ids.begin(), row.ids.end());
    all.weights.insert(all.weights.end(), row.weights.begin(), row.weights.end());
  }
  return all;
}

// As RouteArgs says a config is put.
Choices OnDevice(const Problem& p) {
  DeviceForTest device;
  const ModelConfig& c = p.config;
  RouteArgs args;
  args.logits = device.Upload(p.logits);
  if (c.topk_method == TopkMethod::kNoAuxTc) args.bias = device.Upload(p.bias);
  if (!p.forced.empty()) args.forced = device.Upload(p.forced);
  args.rows = p.rows;
  args.experts = c.n_routed_experts;
  args.per_token = c.num_experts_per_tok;
  if (c.topk_method != TopkMethod::kGreedy) {
    args.groups = c.n_group;
    args.groups_kept = c.topk_group;
  }
  args.sigmoid = c.scoring_func == ScoringFunc::kSigmoid;
  args.group_by_top2 = c.topk_method == TopkMethod::kNoAuxTc;
  args.normalize = c.norm_topk_prob;
  args.scale = static_cast<float>(c.routed_scaling_factor);
  const int64_t count = p.rows * args.per_token;
  args.ids = device.Allocate<uint32_t>(count);
  args.weights = device.Allocate<float>(count);
  Route(args, device.stream());
  return {device.Download(args.ids, count), device.Download(args.weights, count)};
}

void ExpectTheHosts(const Problem& p) {
  const Choices found = OnDevice(p), expected = OnHost(p);
  ASSERT_EQ(found.ids, expected.ids);
  ExpectSameBits(found.weights, expected.weights);
}

// `coarse`: logits and biases on a grid, so that ties are many.
Problem RandomProblem(const ModelConfig& config, int64_t rows, bool coarse, std::mt19937& random) {
  Problem p{config, rows};
  std::normal_distribution<float> normal(0, 2);
  const auto draw = [&] { return coarse ? std::round(normal(random)) : normal(random); };
  for (int64_t i = 0; i < rows * config.n_routed_experts; ++i) p.logits.push_back(draw());
  if (config.topk_method == TopkMethod::kNoAuxTc) {
    for (int64_t i = 0; i < config.n_routed_experts; ++i) p.bias.push_back(draw() / 4);
  }
  return p;
}

constexpr TopkMethod kMethods[] = {TopkMethod::kGreedy, TopkMethod::kGroupLimitedGreedy,
                                   TopkMethod::kNoAuxTc};
constexpr ScoringFunc kScorings[] = {ScoringFunc::kSoftmax, ScoringFunc::kSigmoid};

struct Sizes {
  int64_t experts, per_token, groups, kept;
};
// V2-Lite, V2, V3, Kimi-K2; then tails, groups of one, all groups kept, and the limits.
constexpr Sizes kSizes[] = {{64, 6, 1, 1},  {160, 6, 8, 3},   {256, 8, 8, 4},   {384, 8, 1, 1},
                            {1, 1, 1, 1},   {5, 3, 5, 4},     {33, 4, 3, 2},    {12, 12, 4, 4},
                            {70, 1, 10, 1}, {512, 16, 16, 9}, {512, 32, 32, 5}, {100, 7, 2, 1}};

TEST(Route, HasTheHostsChoicesAndBits) {
  std::mt19937 random(1);
  for (const Sizes& s : kSizes) {
    for (const TopkMethod method : kMethods) {
      for (const ScoringFunc scoring : kScorings) {
        ModelConfig config = Config(method, scoring, s.experts, s.per_token, s.groups, s.kept);
        for (const bool coarse : {false, true}) {
          config.norm_topk_prob = !config.norm_topk_prob;
          SCOPED_TRACE(testing::Message()
                       << s.experts << " experts, method " << static_cast<int>(method)
                       << ", scoring " << static_cast<int>(scoring));
          ExpectTheHosts(RandomProblem(config, 5, coarse, random));
        }
      }
    }
  }
}

// Fewer experts in the groups kept than are wanted: the rest are those of the lowest index.
TEST(Route, GroupsTooSmallForTheChoice) {
  std::mt19937 random(2);
  ExpectTheHosts(RandomProblem(Config(TopkMethod::kNoAuxTc, ScoringFunc::kSigmoid, 16, 6, 8, 2), 4,
                               false, random));
}

TEST(Route, EqualLogitsGoToTheLowestIds) {
  for (const TopkMethod method : kMethods) {
    Problem p{Config(method, ScoringFunc::kSigmoid, 96, 8, 4, 2), 1};
    p.logits.assign(96, 0.25f);
    if (method == TopkMethod::kNoAuxTc) p.bias.assign(96, -2.0f);
    ExpectTheHosts(p);
    EXPECT_EQ(OnDevice(p).ids, (std::vector<uint32_t>{0, 1, 2, 3, 4, 5, 6, 7}));
  }
}

TEST(Route, NanAndInfinityComeOutAsOnTheHost) {
  std::mt19937 random(3);
  const float infinity = std::numeric_limits<float>::infinity();
  for (const TopkMethod method : kMethods) {
    for (const ScoringFunc scoring : kScorings) {
      for (const float bad : {kNan, infinity, -infinity}) {
        Problem p = RandomProblem(Config(method, scoring, 48, 6, 4, 2), 3, false, random);
        p.logits[48] = bad;  // the first of row 1
        for (int i = 0; i < 9; ++i) p.logits[2 * 48 + random() % 48] = bad;
        ExpectTheHosts(p);
      }
      Problem none = RandomProblem(Config(method, scoring, 48, 6, 4, 2), 1, false, random);
      none.logits.assign(48, kNan);
      ExpectTheHosts(none);
    }
  }
}

TEST(Route, ForcedIdsAreWeighedByTheirScores) {
  std::mt19937 random(4);
  for (const ScoringFunc scoring : kScorings) {
    ModelConfig config = Config(TopkMethod::kNoAuxTc, scoring, 40, 4, 4, 2);
    config.norm_topk_prob = true;
    Problem p = RandomProblem(config, 3, false, random);
    for (int i = 0; i < 12; ++i) p.forced.push_back(random() % 40);
    ExpectTheHosts(p);
  }
}

TEST(Route, ARowAloneHasTheSameBitsAndNoRowsAreNoWork) {
  std::mt19937 random(5);
  const Problem p =
      RandomProblem(Config(TopkMethod::kGroupLimitedGreedy, ScoringFunc::kSoftmax, 160, 6, 8, 3), 7,
                    false, random);
  const Choices all = OnDevice(p);
  Problem alone = p;
  alone.rows = 1;
  alone.logits.assign(p.logits.begin() + 5 * 160, p.logits.begin() + 6 * 160);
  const Choices one = OnDevice(alone);
  EXPECT_EQ(one.ids, std::vector<uint32_t>(all.ids.begin() + 30, all.ids.begin() + 36));
  ExpectSameBits(one.weights, {all.weights.begin() + 30, all.weights.begin() + 36});
  alone.rows = 0;
  alone.logits.clear();
  EXPECT_TRUE(OnDevice(alone).ids.empty());
}

}  // namespace
}  // namespace tandem::gpu_worker::cuda
