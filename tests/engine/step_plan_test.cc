// Step plans against a whole engine: answers, log probabilities, sampling, and plans that lie.
#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "tests/engine/harness.h"

namespace tandem::gpu_worker {
namespace {

using engine::v1::SequenceSlice;
using engine::v1::SLICE_KIND_DECODE;
using engine::v1::SLICE_KIND_PREFILL;
using engine::v1::StepPlan;
using engine::v1::StepResult;

void Start(StepPlan& plan, uint64_t id, uint32_t prompt_tokens) {
  auto* start = plan.add_starts();
  start->set_sequence_id(id);
  start->set_prompt_tokens(prompt_tokens);
}

SequenceSlice* Slice(StepPlan& plan, uint64_t id, engine::v1::SliceKind kind, uint32_t start,
                     std::vector<uint32_t> tokens, std::vector<uint32_t> pages = {}) {
  SequenceSlice* slice = plan.add_slices();
  slice->set_sequence_id(id);
  slice->set_kind(kind);
  slice->set_start_position(start);
  slice->mutable_token_ids()->Add(tokens.begin(), tokens.end());
  slice->mutable_new_pages()->Add(pages.begin(), pages.end());
  return slice;
}

// A plan that must be refused, and words of the refusal.
struct HostilePlan {
  const char* says;
  std::function<void(StepPlan&)> build;
};

std::vector<HostilePlan> HostileStarts() {
  return {{"already lives", [](StepPlan& p) { Start(p, 1, 3); }},
          {"already lives", [](StepPlan& p) { Start(p, 2, 3), Start(p, 2, 3); }},
          {"no prompt tokens", [](StepPlan& p) { Start(p, 2, 0); }},
          {"temperature",
           [](StepPlan& p) {
             Start(p, 2, 3);
             p.mutable_starts(0)->mutable_sampling()->set_temperature(NAN);
           }},
          {"top_p",
           [](StepPlan& p) {
             Start(p, 2, 3);
             p.mutable_starts(0)->mutable_sampling()->set_top_p(1.5f);
           }},
          {"logit_bias", [](StepPlan& p) {
             Start(p, 2, 3);
             (*p.mutable_starts(0)->mutable_sampling()->mutable_logit_bias())[128] = 1;
           }}};
}

std::vector<HostilePlan> HostilePagesAndTokens() {
  return {
      {"unknown", [](StepPlan& p) { Slice(p, 2, SLICE_KIND_PREFILL, 0, {1}, {1}); }},
      {"below 16, found 16", [](StepPlan& p) { Slice(p, 1, SLICE_KIND_DECODE, 40, {1}, {16}); }},
      {"already taken", [](StepPlan& p) { Slice(p, 1, SLICE_KIND_DECODE, 40, {1}, {0}); }},
      {"already taken",
       [](StepPlan& p) {
         Slice(p, 1, SLICE_KIND_DECODE, 40, {1}, {4, 4});
       }},
      {"already taken",
       [](StepPlan& p) {
         Start(p, 2, 3);
         Slice(p, 1, SLICE_KIND_DECODE, 40, {1}, {4});
         Slice(p, 2, SLICE_KIND_PREFILL, 0, {1}, {4});
       }},
      {"no tokens", [](StepPlan& p) { Slice(p, 1, SLICE_KIND_DECODE, 40, {}); }},
      {"below 128, found 128", [](StepPlan& p) { Slice(p, 1, SLICE_KIND_DECODE, 40, {128}); }},
      {"found 4294967295", [](StepPlan& p) { Slice(p, 1, SLICE_KIND_DECODE, 40, {UINT32_MAX}); }},
      {"rows: expected at most 64",
       [](StepPlan& p) { Slice(p, 1, SLICE_KIND_DECODE, 40, std::vector<uint32_t>(65, 7), {1}); }},
      {"pages of sequence 1",
       [](StepPlan& p) { Slice(p, 1, SLICE_KIND_DECODE, 40, std::vector<uint32_t>(25, 7)); }}};
}

std::vector<HostilePlan> HostilePositionsAndKinds() {
  return {
      {"start_position", [](StepPlan& p) { Slice(p, 1, SLICE_KIND_DECODE, 41, {1}); }},
      {"start_position", [](StepPlan& p) { Slice(p, 1, SLICE_KIND_DECODE, 39, {1}); }},
      {"start_position",
       [](StepPlan& p) {
         Slice(p, 1, SLICE_KIND_DECODE, 40, {1});
         Slice(p, 1, SLICE_KIND_DECODE, 40, {1});
       }},
      {"within the prompt", [](StepPlan& p) { Slice(p, 1, SLICE_KIND_PREFILL, 40, {1}); }},
      {"within the prompt",
       [](StepPlan& p) {
         Start(p, 2, 3);
         Slice(p, 2, SLICE_KIND_PREFILL, 0, {1, 2, 3, 4}, {4});
       }},
      {"after the prompt",
       [](StepPlan& p) {
         Start(p, 2, 3);
         Slice(p, 2, SLICE_KIND_DECODE, 0, {1}, {4});
       }},
      {"inside its prompt",
       [](StepPlan& p) {
         Start(p, 2, 3);
         Slice(p, 2, SLICE_KIND_PREFILL, 0, {1, 2}, {4})->set_sample(true);
       }},
      {"unknown kind",
       [](StepPlan& p) { Slice(p, 1, engine::v1::SLICE_KIND_UNSPECIFIED, 40, {1}); }},
      {"first slice on",
       [](StepPlan& p) { Slice(p, 1, SLICE_KIND_DECODE, 40, {1})->set_prompt_logprobs_plus1(1); }},
      {"deadline_ms", [](StepPlan& p) { p.set_deadline_ms(0); }}};
}

class StepPlanTest : public testing::Test {
 protected:
  StepPlanTest() : golden_(LoadGolden("v3")) {}

  static HarnessOptions Options() {
    HarnessOptions options;
    options.kv_pages = 16;
    options.rows_max = 64;
    return options;
  }

  StepPlan NewPlan() {
    StepPlan plan;
    plan.set_step_id(++step_id_);
    plan.set_deadline_ms(60000);
    return plan;
  }

  StepResult Run(Harness& harness, const StepPlan& plan) {
    return harness.engine.Run(plan, absl::Now());
  }

  std::vector<uint32_t> Prompt() const {
    return {golden_.tokens.begin(), golden_.tokens.begin() + golden_.prompt_tokens};
  }

  // Generates `count` tokens after the golden prompt.
  std::vector<uint32_t> Generate(Harness& harness, const sampling::v1::SamplingParams& sampling,
                                 size_t count) {
    StepPlan plan = NewPlan();
    Start(plan, 1, static_cast<uint32_t>(golden_.prompt_tokens));
    *plan.mutable_starts(0)->mutable_sampling() = sampling;
    Slice(plan, 1, SLICE_KIND_PREFILL, 0, Prompt(), {3})->set_sample(true);
    std::vector<uint32_t> answer;
    while (true) {
      const StepResult result = Run(harness, plan);
      EXPECT_EQ(result.status_code(), 0u) << result.status_message();
      EXPECT_EQ(result.slices(0).status_code(), 0u) << result.slices(0).status_message();
      answer.push_back(result.slices(0).token_id());
      if (answer.size() == count) return answer;
      const uint32_t position = static_cast<uint32_t>(golden_.prompt_tokens + answer.size()) - 1;
      plan = NewPlan();
      Slice(plan, 1, SLICE_KIND_DECODE, position, {answer.back()},
            position % 64 == 0 ? std::vector<uint32_t>{5} : std::vector<uint32_t>{})
          ->set_sample(true);
    }
  }

  const GoldenModel golden_;
  uint64_t step_id_ = 0;
};

TEST_F(StepPlanTest, GreedyAnswerIsTheOracles) {
  for (const std::string& name : GoldenNames()) {
    const GoldenModel golden = LoadGolden(name);
    Harness harness(golden.weights, Options());
    StepPlan plan = NewPlan();
    Start(plan, 1, static_cast<uint32_t>(golden.prompt_tokens));
    plan.mutable_starts(0)->mutable_sampling()->add_stop_token_ids(golden.tokens.back());
    Slice(plan, 1, SLICE_KIND_PREFILL, 0,
          {golden.tokens.begin(), golden.tokens.begin() + golden.prompt_tokens}, {0})
        ->set_sample(true);
    for (size_t t = golden.prompt_tokens; t < golden.tokens.size(); ++t) {
      const StepResult result = Run(harness, plan);
      ASSERT_EQ(result.status_code(), 0u) << result.status_message();
      ASSERT_TRUE(result.slices(0).has_token());
      EXPECT_EQ(result.slices(0).token_id(), golden.tokens[t]) << name << " position " << t;
      EXPECT_EQ(result.slices(0).is_stop_token(), golden.tokens[t] == golden.tokens.back());
      plan = NewPlan();
      Slice(plan, 1, SLICE_KIND_DECODE, static_cast<uint32_t>(t), {golden.tokens[t]})
          ->set_sample(true);
    }
  }
}

double OracleLogprob(const std::vector<double>& logits, uint32_t token) {
  double max = -1e300, sum = 0;
  for (const double x : logits) max = std::max(max, x);
  for (const double x : logits) sum += std::exp(x - max);
  return logits[token] - max - std::log(sum);
}

TEST_F(StepPlanTest, PromptLogprobsCrossChunks) {
  Harness harness(golden_.weights, Options());
  StepPlan plan = NewPlan();
  Start(plan, 1, 40);
  Slice(plan, 1, SLICE_KIND_PREFILL, 0, {golden_.tokens.begin(), golden_.tokens.begin() + 13}, {0})
      ->set_prompt_logprobs_plus1(4);
  const StepResult first = Run(harness, plan);
  plan = NewPlan();
  Slice(plan, 1, SLICE_KIND_PREFILL, 13, {golden_.tokens.begin() + 13, golden_.tokens.begin() + 40})
      ->set_prompt_logprobs_plus1(4);
  const StepResult second = Run(harness, plan);
  ASSERT_EQ(first.slices(0).prompt_logprobs_size(), 12);  // none for the first token
  ASSERT_EQ(second.slices(0).prompt_logprobs_size(), 27);
  for (int t = 1; t < 40; ++t) {
    const auto& logprobs =
        t < 13 ? first.slices(0).prompt_logprobs(t - 1) : second.slices(0).prompt_logprobs(t - 13);
    EXPECT_EQ(logprobs.chosen().token_id(), golden_.tokens[t]);
    EXPECT_NEAR(logprobs.chosen().logprob(),
                OracleLogprob(golden_.logits[t - 1], golden_.tokens[t]), 1e-3);
    ASSERT_EQ(logprobs.top_size(), 3);
    EXPECT_GE(logprobs.top(0).logprob(), logprobs.top(1).logprob());
    EXPECT_GE(logprobs.top(0).logprob(), logprobs.chosen().logprob());
  }
}

TEST_F(StepPlanTest, SamplingDependsOnSeedAndPositionOnly) {
  sampling::v1::SamplingParams sampling;
  sampling.set_temperature(1.5f);
  sampling.set_seed(42);
  Harness a(golden_.weights, Options()), b(golden_.weights, Options());
  const std::vector<uint32_t> answer = Generate(a, sampling, 20);
  // The same in a worker that has other sequences with other seeds in every step.
  StepPlan noise = NewPlan();
  Start(noise, 9, 5);
  noise.mutable_starts(0)->mutable_sampling()->set_temperature(1);
  Slice(noise, 9, SLICE_KIND_PREFILL, 0, {1, 2, 3, 4, 5}, {10})->set_sample(true);
  Run(b, noise);
  EXPECT_EQ(Generate(b, sampling, 20), answer);
  Harness c(golden_.weights, Options());
  sampling.set_seed(43);
  EXPECT_NE(Generate(c, sampling, 20), answer);
}

TEST_F(StepPlanTest, PromptAndReplayInOneStep) {
  Harness harness(golden_.weights, Options());
  StepPlan plan = NewPlan();
  Start(plan, 1, 40);
  Slice(plan, 1, SLICE_KIND_PREFILL, 0, Prompt(), {0});
  Slice(plan, 1, SLICE_KIND_DECODE, 40, {golden_.tokens.begin() + 40, golden_.tokens.begin() + 45})
      ->set_sample(true);
  const StepResult result = Run(harness, plan);
  ASSERT_EQ(result.status_code(), 0u) << result.status_message();
  EXPECT_FALSE(result.slices(0).has_token());
  EXPECT_EQ(result.slices(1).token_id(), golden_.tokens[45]);
}

// Each hostile plan is sent to an engine with one live sequence (id 1: 40 prompt tokens on page 0,
// all fed), must be refused with INVALID_ARGUMENT naming the problem, and must leave the engine as
// it was.
TEST_F(StepPlanTest, HostilePlansAreRefusedAndChangeNothing) {
  std::vector<HostilePlan> cases = HostileStarts();
  for (auto& more : {HostilePagesAndTokens(), HostilePositionsAndKinds()}) {
    cases.insert(cases.end(), more.begin(), more.end());
  }
  Harness harness(golden_.weights, Options());
  StepPlan plan = NewPlan();
  Start(plan, 1, 40);
  Slice(plan, 1, SLICE_KIND_PREFILL, 0, Prompt(), {0});
  ASSERT_EQ(Run(harness, plan).status_code(), 0u);
  for (size_t i = 0; i < cases.size(); ++i) {
    StepPlan hostile = NewPlan();
    hostile.add_releases(1);  // must not happen either
    cases[i].build(hostile);
    const StepResult result = Run(harness, hostile);
    EXPECT_EQ(result.status_code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument)) << i;
    EXPECT_TRUE(absl::StrContains(result.status_message(), cases[i].says))
        << i << ": " << result.status_message();
    EXPECT_EQ(result.slices_size(), 0);
    EXPECT_EQ(harness.engine.sequences().size(), 1u) << i;
    EXPECT_EQ(harness.engine.sequences().pages_used(), 1) << i;
  }
  // And the sequence goes on as if nothing had been.
  plan = NewPlan();
  Slice(plan, 1, SLICE_KIND_DECODE, 40, {golden_.tokens[40]})->set_sample(true);
  plan.add_releases(1);
  const StepResult result = Run(harness, plan);
  ASSERT_EQ(result.status_code(), 0u) << result.status_message();
  EXPECT_EQ(result.slices(0).token_id(), golden_.tokens[41]);
  EXPECT_EQ(harness.engine.sequences().size(), 0u);
  EXPECT_EQ(harness.engine.sequences().pages_used(), 0);
}

// A plan of random small numbers. Slices mostly continue where their sequence ends, so that good
// and bad plans both happen.
StepPlan RandomPlan(const Sequences& live, std::mt19937_64& random) {
  const auto below = [&random](uint64_t n) { return static_cast<uint32_t>(random() % n); };
  StepPlan plan;
  plan.set_deadline_ms(60000);
  if (below(3) == 0) Start(plan, below(4), below(6));
  for (uint32_t i = below(3); i > 0; --i) {
    const uint64_t id = below(4);
    const Sequence* sequence = live.Find(id);
    uint32_t start = sequence == nullptr ? 0 : static_cast<uint32_t>(sequence->tokens.size());
    auto kind = sequence != nullptr && start >= sequence->prompt_tokens ? SLICE_KIND_DECODE
                                                                        : SLICE_KIND_PREFILL;
    if (below(8) == 0) start += below(3);
    if (below(8) == 0) kind = static_cast<engine::v1::SliceKind>(below(3));
    const std::vector<uint32_t> tokens(below(8) == 0 ? 0 : 1 + below(3), below(130));
    const bool needs_page = sequence == nullptr || sequence->pages.empty();
    const std::vector<uint32_t> pages(needs_page ? 1 : below(10) / 9, below(17));
    SequenceSlice* slice = Slice(plan, id, kind, start, tokens, pages);
    slice->set_sample(below(4) == 0);
    slice->set_prompt_logprobs_plus1(below(8) == 0 ? below(140) : 0);
  }
  if (below(4) == 0) plan.add_releases(below(4));
  return plan;
}

TEST_F(StepPlanTest, RandomPlansNeverBreakTheEngine) {
  Harness harness(golden_.weights, Options());
  std::mt19937_64 random(1);
  int good = 0;
  for (int i = 0; i < 5000; ++i) {
    const StepPlan plan = RandomPlan(harness.engine.sequences(), random);
    const int64_t pages_before = harness.engine.sequences().pages_used();
    const size_t sequences_before = harness.engine.sequences().size();
    const StepResult result = Run(harness, plan);
    if (result.status_code() != 0) {
      ASSERT_EQ(result.status_code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
      ASSERT_EQ(harness.engine.sequences().pages_used(), pages_before);
      ASSERT_EQ(harness.engine.sequences().size(), sequences_before);
      continue;
    }
    good += plan.slices_size() > 0;
    ASSERT_EQ(result.slices_size(), plan.slices_size());
    for (int s = 0; s < result.slices_size(); ++s) {
      ASSERT_EQ(result.slices(s).status_code(), 0u) << result.slices(s).status_message();
      ASSERT_EQ(result.slices(s).has_token(), plan.slices(s).sample());
    }
  }
  EXPECT_GT(good, 100) << "the random plans have become too wild to test anything";
}

TEST_F(StepPlanTest, DeadlineEndsTheStepAndItsSequences) {
  Harness harness(golden_.weights, Options());
  StepPlan plan = NewPlan();
  plan.set_deadline_ms(1);
  Start(plan, 1, 40);
  Slice(plan, 1, SLICE_KIND_PREFILL, 0, Prompt(), {0})->set_sample(true);
  const StepResult late = harness.engine.Run(plan, absl::Now() - absl::Seconds(1));
  EXPECT_EQ(late.status_code(), static_cast<uint32_t>(absl::StatusCode::kDeadlineExceeded));
  plan = NewPlan();
  Slice(plan, 1, SLICE_KIND_DECODE, 40, {1});
  const StepResult after = Run(harness, plan);
  ASSERT_EQ(after.status_code(), 0u) << after.status_message();
  EXPECT_EQ(after.slices(0).status_code(),
            static_cast<uint32_t>(absl::StatusCode::kDeadlineExceeded));
}

}  // namespace
}  // namespace tandem::gpu_worker
