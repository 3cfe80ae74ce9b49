// Tokens and log probabilities from the little that is asked for against those from whole rows, for
// random logits and parameters of all kinds, from one rank and from several.
#include "gpu_worker/engine/row_answers.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <numeric>
#include <random>

#include "gpu_worker/backend/host/host_logits.h"
#include "gpu_worker/backend/shard/sharded_logits.h"
#include "gpu_worker/backend/weight_steps.h"
#include "gpu_worker/engine/logit_needs.h"
#include "gpu_worker/engine/philox.h"
#include "lib/kernels/activation.h"

namespace tandem::gpu_worker {
namespace {

using sampling::v1::PositionLogprobs;
using sampling::v1::SamplingParams;

using Rows = std::vector<std::vector<float>>;

// Rows in memory as `ranks` backends would have them.
class Source {
 public:
  Source(const Rows& rows, int ranks) : vocab_(static_cast<int64_t>(rows[0].size())) {
    const Split split = SplitOutputs(vocab_, 1, ranks);
    for (int rank = 0; rank < ranks; ++rank) {
      const ShardRange own = split.of(rank);
      parts_.push_back(std::make_unique<HostLogits>(vocab_, own, pool_));
      std::span<float> to = parts_.back()->Reset(static_cast<int64_t>(rows.size()));
      for (size_t r = 0; r < rows.size(); ++r) {
        std::copy(rows[r].begin() + own.begin, rows[r].begin() + own.end,
                  to.begin() + r * own.size());
      }
    }
    sharded_ = std::make_unique<ShardedLogits>(ranks, vocab_, [this](const auto& question) {
      for (size_t rank = 0; rank < parts_.size(); ++rank) {
        question(*parts_[rank], static_cast<int>(rank));
      }
      return true;
    });
  }
  RowLogits& logits() {
    if (parts_.size() > 1) return *sharded_;
    return *parts_[0];
  }

 private:
  const int64_t vocab_;
  base::ThreadPool pool_{2};
  std::vector<std::unique_ptr<HostLogits>> parts_;
  std::unique_ptr<ShardedLogits> sharded_;
};

// What SampleToken is to do, written down plainly: everything is sorted and nothing is saved.
uint32_t PlainToken(const SampleInput& input) {
  const SamplingParams& p = *input.params;
  const size_t vocab = input.logits.size();
  std::vector<float> logits(input.logits.begin(), input.logits.end());
  for (const auto& [id, bias] : p.logit_bias()) logits[id] += bias;
  for (uint32_t id = 0; id < vocab; ++id) {
    const auto times = std::count(input.tokens.begin(), input.tokens.end(), id);
    const auto answered =
        std::count(input.tokens.begin() + input.prompt_tokens, input.tokens.end(), id);
    if (times > 0 && p.repetition_penalty() != 0) {
      logits[id] = logits[id] > 0 ? logits[id] / p.repetition_penalty()
                                  : logits[id] * p.repetition_penalty();
    }
    if (answered > 0) {
      logits[id] -= p.presence_penalty() + p.frequency_penalty() * static_cast<float>(answered);
    }
  }
  std::vector<uint32_t> order(vocab);
  std::iota(order.begin(), order.end(), 0u);
  std::stable_sort(order.begin(), order.end(),
                   [&](uint32_t a, uint32_t b) { return logits[a] > logits[b]; });
  if (p.temperature() == 0) return order[0];
  const auto weight = [&](size_t i) {
    return kernels::Exp((logits[order[i]] - logits[order[0]]) / p.temperature());
  };
  uint64_t steps = 0;
  for (size_t i = 0; i < vocab; ++i) steps += WeightSteps(weight(i));
  double total = static_cast<double>(steps) * 0x1p-44;
  const bool filtered = p.top_k() > 0 || (p.top_p() > 0 && p.top_p() < 1) || p.min_p() > 0;
  const size_t k = p.top_k() == 0 ? vocab : std::min<size_t>(p.top_k(), vocab);
  if (k < vocab) {
    total = 0;
    for (size_t i = 0; i < k; ++i) total += weight(i);
  }
  size_t kept = 0;
  double sum = 0;
  const double reach = p.top_p() > 0 && p.top_p() < 1 ? p.top_p() * total : HUGE_VAL;
  while (kept < k && sum < reach && (kept == 0 || weight(kept) >= p.min_p())) sum += weight(kept++);
  double left = UniformAt(p.seed(), input.tokens.size()) * (filtered ? sum : total);
  for (size_t i = 0; i < kept; ++i) {
    left -= weight(i);
    if (left < 0) return order[i];
  }
  return order[kept - 1];
}

class Random {
 public:
  explicit Random(uint64_t seed) : random_(seed) {}
  uint32_t Below(uint32_t n) { return static_cast<uint32_t>(random_() % n); }
  float Uniform() { return static_cast<float>(Below(1 << 24)) / (1 << 24); }

  // Of different spreads, some with few different values, so that ties are the rule.
  std::vector<float> Row(int64_t vocab) {
    const float spreads[] = {0.01f, 1, 3, 10, 300};
    std::normal_distribution<float> normal(Below(2) * 20.0f, spreads[Below(5)]);
    std::vector<float> row(vocab);
    const bool coarse = Below(3) == 0;
    for (float& v : row) v = coarse ? std::round(normal(random_)) : normal(random_);
    if (Below(10) == 0) std::fill(row.begin(), row.end(), Below(2) == 0 ? 0.0f : -0.0f);
    return row;
  }

  SamplingParams Params(uint32_t vocab) {
    SamplingParams p;
    if (Below(4) > 0) p.set_temperature(std::exp(4 * Uniform() - 3));
    if (Below(20) == 0) p.set_temperature(1e-30f);
    if (Below(3) == 0) p.set_top_k(Below(4) == 0 ? Below(2 * vocab) : 1 + Below(70));
    // Of equals, quarters are reached exactly.
    if (Below(2) == 0)
      p.set_top_p(Below(2) == 0 ? Uniform() : 0.25f * static_cast<float>(Below(5)));
    if (Below(3) == 0) p.set_min_p(Uniform() * Uniform());
    p.set_seed(Below(1000));
    if (Below(4) == 0) p.set_repetition_penalty(0.5f + 1.5f * Uniform());
    if (Below(4) == 0) p.set_presence_penalty(4 * Uniform() - 2);
    if (Below(4) == 0) p.set_frequency_penalty(2 * Uniform() - 1);
    for (uint32_t i = Below(3) == 0 ? Below(6) : 0; i > 0; --i) {
      (*p.mutable_logit_bias())[Below(vocab)] = 200 * Uniform() - 100;
    }
    if (Below(3) == 0) p.set_logprobs(true);
    if (Below(3) == 0) p.set_top_logprobs(Below(4) == 0 ? Below(vocab) : Below(20));
    for (uint32_t i = Below(3) == 0 ? Below(6) : 0; i > 0; --i) {
      p.add_logprob_token_ids(Below(vocab));
    }
    return p;
  }

  std::vector<uint32_t> Tokens(uint32_t vocab) {
    std::vector<uint32_t> tokens(1 + Below(40));
    for (uint32_t& t : tokens) t = Below(Below(2) == 0 ? std::min(vocab, 8u) : vocab);
    return tokens;
  }

 private:
  std::mt19937_64 random_;
};

// One step's rows with all they need.
struct Step {
  Rows rows;
  std::vector<SamplingParams> params;
  std::vector<std::vector<uint32_t>> tokens;
  std::vector<SampleInput> inputs;

  Step(int64_t count, uint32_t vocab, Random& random) {
    for (int64_t r = 0; r < count; ++r) {
      rows.push_back(random.Row(vocab));
      params.push_back(random.Params(vocab));
      tokens.push_back(random.Tokens(vocab));
    }
    for (int64_t r = 0; r < count; ++r) {
      const auto prompt =
          static_cast<int64_t>(random.Below(static_cast<uint32_t>(tokens[r].size())));
      inputs.push_back({rows[r], &params[r], tokens[r], prompt});
    }
  }
};

std::string Bytes(const PositionLogprobs& logprobs) { return logprobs.SerializeAsString(); }

void ExpectAnswersOfWholeRows(const Step& step, int ranks, int64_t* whole_rows) {
  Source source(step.rows, ranks);
  const auto vocab = static_cast<int64_t>(step.rows[0].size());
  const std::vector<RowAnswer> found = NextTokens(source.logits(), vocab, step.inputs, whole_rows);
  ASSERT_EQ(found.size(), step.rows.size());
  for (size_t r = 0; r < found.size(); ++r) {
    const SampleInput& input = step.inputs[r];
    const std::string about = step.params[r].ShortDebugString();
    ASSERT_EQ(found[r].status, CheckLogits(input.logits)) << about;
    if (!found[r].status.ok()) continue;
    const uint32_t token = SampleToken(input);
    ASSERT_EQ(found[r].token, token) << about;
    ASSERT_EQ(token, PlainToken(input)) << about;
    ASSERT_EQ(found[r].logprobs.has_value(), WantsLogprobs(step.params[r])) << about;
    if (!found[r].logprobs.has_value()) continue;
    const auto& ids = step.params[r].logprob_token_ids();
    ASSERT_EQ(Bytes(*found[r].logprobs),
              Bytes(Logprobs(input.logits, token, step.params[r].top_logprobs(),
                             {ids.data(), static_cast<size_t>(ids.size())})))
        << about;
  }
}

TEST(NextTokensTest, AreThoseOfWholeRows) {
  Random random(1);
  int64_t rows = 0, whole = 0;
  for (const int ranks : {1, 2, 3}) {
    for (const uint32_t vocab : {1, 2, 10, 63, 64, 65, 200, 1500}) {
      for (int i = 0; i < 12; ++i) {
        ExpectAnswersOfWholeRows(Step(20, vocab, random), ranks, &whole);
        if (testing::Test::HasFatalFailure()) return;
        rows += 20;
      }
    }
  }
  EXPECT_GT(whole, rows / 50) << "rows that are needed whole are not tested any more";
  EXPECT_LT(whole, rows / 3) << "rows come whole that need not";
}

TEST(NextTokensTest, LogitsThatAreNotFinite) {
  Random random(2);
  const float infinity = std::numeric_limits<float>::infinity();
  for (const int ranks : {1, 2}) {
    for (int i = 0; i < 20; ++i) {
      Step step(12, 300, random);
      for (std::vector<float>& row : step.rows) {
        const float bad[] = {infinity, -infinity, NAN};
        for (uint32_t n = random.Below(3); n > 0; --n)
          row[random.Below(300)] = bad[random.Below(3)];
      }
      ExpectAnswersOfWholeRows(step, ranks, nullptr);
    }
  }
}

// How rows of a language model look: few tokens have most of the probability.
TEST(NextTokensTest, CommonRequestsNeedNoWholeRow) {
  Random random(3);
  Step step(10, 5000, random);
  for (size_t r = 0; r < step.rows.size(); ++r) {
    for (float& v : step.rows[r]) v = -5.0f * random.Uniform();
    for (int i = 0; i < 20; ++i) step.rows[r][random.Below(5000)] = 10 + 8 * random.Uniform();
    SamplingParams& p = step.params[r];
    p = {};
    if (r > 0) p.set_temperature(0.6f);
    if (r > 1) p.set_top_p(0.95f);
    if (r == 2) p.set_top_k(40);
    if (r == 3) p.set_min_p(0.05f);
    if (r == 4) p.set_frequency_penalty(0.5f);
    if (r == 5) p.set_repetition_penalty(1.1f);
    if (r >= 6) p.set_top_logprobs(static_cast<uint32_t>(r));
  }
  int64_t whole = 0;
  ExpectAnswersOfWholeRows(step, 2, &whole);
  EXPECT_EQ(whole, 0);
}

// A token that was far ahead falls back: the others' weights are relative to another one then, to
// which its raw weight may be infinite.
TEST(NextTokensTest, APenaltyOnAFavourite) {
  Random random(4);
  for (const float ahead : {1.0f, 4.0f, 5.5f, 90.0f, 5000.0f}) {
    Step step(4, 500, random);
    for (size_t r = 0; r < 4; ++r) {
      for (float& v : step.rows[r]) v = random.Uniform();
      step.rows[r][77] = 1 + ahead;
      step.params[r] = {};
      step.params[r].set_temperature(r == 0 ? 0.0f : 1.0f);
      step.params[r].set_seed(r);
      if (r > 1) step.params[r].set_top_p(0.05f);
      (*step.params[r].mutable_logit_bias())[77] = -100 - ahead;
    }
    ExpectAnswersOfWholeRows(step, 1, nullptr);
  }
}

TEST(PromptLogprobsTest, AreThoseOfWholeRows) {
  Random random(5);
  for (const int ranks : {1, 2}) {
    for (const uint32_t vocab : {1, 50, 300}) {
      for (const uint32_t top : {0u, 1u, 20u, 64u, 65u, 1000u}) {
        if (top > vocab) continue;
        const Step step(18, vocab, random);
        for (const size_t count : {17, 18}) {
          std::vector<uint32_t> next(count);
          for (uint32_t& t : next) t = random.Below(vocab);
          Source source(step.rows, ranks);
          std::vector<PositionLogprobs> found;
          ASSERT_TRUE(PromptLogprobs(source.logits(), vocab, 18, next, top, &found).ok());
          ASSERT_EQ(found.size(), count);
          for (size_t r = 0; r < count; ++r) {
            ASSERT_EQ(Bytes(found[r]), Bytes(Logprobs(step.rows[r], next[r], top)));
          }
        }
      }
    }
  }
}

TEST(PromptLogprobsTest, TheFirstRowThatIsNotFiniteIsNamed) {
  Random random(6);
  Step step(5, 100, random);
  step.rows[4][3] = NAN;
  std::vector<PositionLogprobs> found;
  const auto status = [&] {
    Source source(step.rows, 2);
    return PromptLogprobs(source.logits(), 100, 5, std::vector<uint32_t>(4, 1), 3, &found);
  };
  EXPECT_EQ(status(), CheckLogits(step.rows[4])) << "even the last, whose next token is not known";
  step.rows[2][99] = HUGE_VALF;
  EXPECT_EQ(status(), absl::DataLossError("the logit of token 99 is not finite"));
}

// Against doubles: what log probabilities promise.
TEST(LogSumTest, IsCloseToTheExactOne) {
  Random random(7);
  double worst = 0;
  for (int i = 0; i < 30; ++i) {
    const std::vector<float> row = random.Row(i == 0 ? 262144 : 20000);
    const double highest = *std::max_element(row.begin(), row.end());
    double sum = 0;
    for (const float v : row) sum += std::exp(v - highest);
    const float chosen = row[random.Below(20000)];
    const double exact = chosen - (highest + std::log(sum));
    const auto found = Logprobs(
        row, static_cast<uint32_t>(std::find(row.begin(), row.end(), chosen) - row.begin()), 0);
    // The sum's promise and one rounding to f32.
    const double bound = std::ldexp(1.0, -20) + std::abs(exact) * std::ldexp(1.0, -24);
    EXPECT_NEAR(found.chosen().logprob(), exact, bound);
    worst = std::max(worst, std::abs(found.chosen().logprob() - exact) / bound);
  }
  EXPECT_GT(worst, 0.001) << "else the comparison itself is broken";
}

}  // namespace
}  // namespace tandem::gpu_worker
