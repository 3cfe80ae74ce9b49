#include "tests/engine/sampling_check.h"

#include <gtest/gtest.h>

#include "absl/time/clock.h"
#include "gpu_worker/engine/sampler.h"

namespace tandem::gpu_worker {
namespace {

using engine::v1::StepPlan;
using engine::v1::StepResult;
using sampling::v1::SamplingParams;

constexpr int64_t kPromptTokens = 4, kSteps = 3;

// Greedy and not, with top-k, top-p and min-p, bias and penalties, few and all log probabilities.
std::vector<SamplingParams> AllKinds() {
  std::vector<SamplingParams> kinds(16);
  for (size_t i = 0; i < kinds.size(); ++i) {
    kinds[i].set_seed(i);
    if (i > 2) kinds[i].set_temperature(0.5f + 0.2f * static_cast<float>(i % 5));
  }
  kinds[1].set_repetition_penalty(3);
  kinds[2].set_top_logprobs(128);
  kinds[4].set_top_k(5);
  kinds[5].set_top_k(40), kinds[5].set_top_p(0.9f);
  kinds[6].set_top_p(0.5f);
  kinds[7].set_top_p(0.95f), kinds[7].set_top_logprobs(20);
  kinds[8].set_min_p(0.2f);
  kinds[9].set_top_p(0.8f), kinds[9].set_frequency_penalty(0.7f);
  kinds[10].set_top_k(20), kinds[10].set_presence_penalty(1.5f);
  (*kinds[11].mutable_logit_bias())[17] = 4;
  kinds[12].set_top_k(100);
  kinds[13].set_top_k(8), kinds[13].set_logprobs(true);
  for (const uint32_t id : {3, 127, 3}) kinds[14].add_logprob_token_ids(id);
  kinds[15].set_temperature(5);
  return kinds;
}

// One sequence as its client sees it, and whole rows from another harness of the same kind.
struct Client {
  SamplingParams sampling;
  std::vector<uint32_t> tokens;
  bool prompt_logprobs = false;
  std::vector<std::vector<float>> logits;  // [tokens before the next step]
};

void AddSlice(uint64_t id, const Client& client, bool first, StepPlan& plan) {
  if (first) {
    auto* const start = plan.add_starts();
    start->set_sequence_id(id);
    start->set_prompt_tokens(kPromptTokens);
    *start->mutable_sampling() = client.sampling;
  }
  auto* const slice = plan.add_slices();
  slice->set_sequence_id(id);
  slice->set_sample(true);
  if (first) {
    slice->set_kind(engine::v1::SLICE_KIND_PREFILL);
    slice->mutable_token_ids()->Add(client.tokens.begin(), client.tokens.end());
    slice->add_new_pages(static_cast<uint32_t>(id));
    if (client.prompt_logprobs) slice->set_prompt_logprobs_plus1(static_cast<uint32_t>(1 + 9 * id));
  } else {
    slice->set_kind(engine::v1::SLICE_KIND_DECODE);
    slice->set_start_position(static_cast<uint32_t>(client.tokens.size()) - 1);
    slice->add_token_ids(client.tokens.back());
  }
}

void ExpectSame(const sampling::v1::PositionLogprobs& found,
                const sampling::v1::PositionLogprobs& expected) {
  EXPECT_EQ(found.SerializeAsString(), expected.SerializeAsString())
      << found.ShortDebugString() << " instead of " << expected.ShortDebugString();
}

void CheckSlice(uint64_t id, const engine::v1::SliceResult& slice, const Client& client,
                bool first) {
  SCOPED_TRACE(testing::Message() << "sequence " << id << ", " << client.tokens.size()
                                  << " tokens, " << client.sampling.ShortDebugString());
  ASSERT_EQ(slice.status_code(), 0u) << slice.status_message();
  const std::vector<float>& row = client.logits.back();
  const uint32_t token = SampleToken({row, &client.sampling, client.tokens, kPromptTokens});
  EXPECT_EQ(slice.token_id(), token);
  const SamplingParams& p = client.sampling;
  const auto& ids = p.logprob_token_ids();
  ASSERT_EQ(slice.has_logprobs(), p.logprobs() || p.top_logprobs() > 0 || !ids.empty());
  if (slice.has_logprobs()) {
    ExpectSame(slice.logprobs(), Logprobs(row, token, p.top_logprobs(),
                                          {ids.data(), static_cast<size_t>(ids.size())}));
  }
  ASSERT_EQ(slice.prompt_logprobs_size(),
            first && client.prompt_logprobs ? static_cast<int>(kPromptTokens) - 1 : 0);
  for (int t = 0; t < slice.prompt_logprobs_size(); ++t) {
    ExpectSame(slice.prompt_logprobs(t),
               Logprobs(client.logits[t], client.tokens[t + 1], 9 * static_cast<int64_t>(id)));
  }
}

}  // namespace

void ExpectAnswersOfWholeRows(const ModelWeights& weights, const HarnessOptions& options) {
  Harness harness(weights, options), rows(weights, options);
  std::vector<Client> clients;
  for (const SamplingParams& kind : AllKinds()) {
    const auto id = static_cast<uint64_t>(clients.size());
    clients.push_back(
        {kind, RandomTokens(kPromptTokens, weights.config.vocab_size, id), id % 2 == 0, {}});
  }
  for (int64_t step = 0; step < kSteps; ++step) {
    const bool first = step == 0;
    StepPlan plan;
    plan.set_step_id(static_cast<uint64_t>(step) + 1);
    plan.set_deadline_ms(120000);
    std::vector<Piece> pieces;
    for (size_t i = 0; i < clients.size(); ++i) {
      AddSlice(i, clients[i], first, plan);
      const std::vector<uint32_t>& tokens = clients[i].tokens;
      pieces.push_back({static_cast<int>(i),
                        first ? RowKind::kPrefill : RowKind::kDecode,
                        {first ? tokens.begin() : tokens.end() - 1, tokens.end()}});
    }
    const LogitRows logits = rows.Run(pieces);
    const StepResult result = harness.engine.Run(plan, absl::Now());
    ASSERT_EQ(result.status_code(), 0u) << result.status_message();
    size_t row = 0;
    for (size_t i = 0; i < clients.size(); ++i) {
      for (size_t t = 0; t < pieces[i].tokens.size(); ++t) {
        clients[i].logits.push_back(logits[row++]);
      }
      const auto& slice = result.slices(static_cast<int>(i));
      CheckSlice(i, slice, clients[i], first);
      clients[i].tokens.push_back(slice.token_id());
    }
  }
}

}  // namespace tandem::gpu_worker
