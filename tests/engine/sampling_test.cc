// Tokens and log probabilities of a whole engine on the host backend: those of whole rows.
#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "gpu_worker/engine/sampler.h"
#include "tests/engine/sampling_check.h"

namespace tandem::gpu_worker {
namespace {

HarnessOptions Options(int ranks) {
  HarnessOptions options;
  options.precision = Precision::kBf16;
  options.kv_pages = 16;
  options.ranks = ranks;
  options.threads = 2;
  return options;
}

TEST(SamplingTest, AnswersAreThoseOfWholeRows) {
  ExpectAnswersOfWholeRows(LoadGolden("v3").weights, Options(1));
}

TEST(SamplingTest, AnswersOfTwoRanksAreThoseOfWholeRows) {
  ExpectAnswersOfWholeRows(LoadGolden("v3").weights, Options(2));
}

// More positions than rows of one ComputeLogits call, in two chunks, the second with a sample.
TEST(SamplingTest, LogProbabilitiesOfALongPrompt) {
  const GoldenModel golden = LoadGolden("v3");
  Harness harness(golden.weights, Options(1)), rows(golden.weights, Options(1));
  const int64_t group = harness.backend->info().logit_rows_max, first = group + 1;
  const std::vector<uint32_t> tokens =
      RandomTokens(first + group + 40, golden.weights.config.vocab_size, 1);
  const LogitRows logits = rows.Run({{0, RowKind::kPrefill, tokens}});
  std::vector<sampling::v1::PositionLogprobs> found;
  for (const bool second : {false, true}) {
    engine::v1::StepPlan plan;
    plan.set_step_id(second ? 2 : 1);
    plan.set_deadline_ms(120000);
    if (!second) {
      plan.add_starts()->set_sequence_id(1);
      plan.mutable_starts(0)->set_prompt_tokens(static_cast<uint32_t>(tokens.size()));
    }
    auto* const slice = plan.add_slices();
    slice->set_sequence_id(1);
    slice->set_kind(engine::v1::SLICE_KIND_PREFILL);
    slice->set_start_position(second ? static_cast<uint32_t>(first) : 0);
    const auto cut = tokens.begin() + first;
    slice->mutable_token_ids()->Add(second ? cut : tokens.begin(), second ? tokens.end() : cut);
    for (uint32_t page = 0; page < 5; ++page) slice->add_new_pages(second ? 5 + page : page);
    slice->set_prompt_logprobs_plus1(4);
    slice->set_sample(second);
    const engine::v1::StepResult result = harness.engine.Run(plan, absl::Now());
    ASSERT_EQ(result.status_code(), 0u) << result.status_message();
    ASSERT_EQ(result.slices(0).status_code(), 0u) << result.slices(0).status_message();
    const auto& more = result.slices(0).prompt_logprobs();
    found.insert(found.end(), more.begin(), more.end());
    if (!second) continue;
    const sampling::v1::SamplingParams greedy;
    EXPECT_EQ(result.slices(0).token_id(), SampleToken({logits.back(), &greedy, tokens, 0}));
  }
  ASSERT_EQ(found.size(), tokens.size() - 1);
  for (size_t t = 0; t < found.size(); ++t) {
    EXPECT_EQ(found[t].SerializeAsString(),
              Logprobs(logits[t], tokens[t + 1], 3).SerializeAsString())
        << t;
  }
}

}  // namespace
}  // namespace tandem::gpu_worker
