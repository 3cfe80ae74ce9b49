// What happens to a step when expert workers fail: another replica, a newer table, a flagged row,
// and a loss that only its own sequences feel.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "lib/rpc/tensor_frame.h"
#include "tests/engine/harness.h"

namespace tandem::gpu_worker {
namespace {

using experts::v1::ExpertRows;
using experts::v1::ExpertSums;

class ExpertFailureTest : public testing::Test {
 protected:
  ExpertFailureTest() : golden_(LoadGolden("v2_lite")) {
    tokens_ = RandomTokens(20, golden_.weights.config.vocab_size, 5);
  }

  static HarnessOptions Options(int workers, int replicas = 1) {
    HarnessOptions options;
    options.precision = Precision::kBf16;
    options.workers = workers;
    options.replicas = replicas;
    options.patience = absl::Milliseconds(400);
    return options;
  }

  LogitRows Expected() {
    Harness harness(golden_.weights, Options(1));
    return harness.Run({{0, RowKind::kPrefill, tokens_}});
  }

  void ExpectUnchanged(const LogitRows& found) {
    const LogitRows expected = Expected();
    ASSERT_EQ(found.size(), expected.size());
    for (size_t t = 0; t < found.size(); ++t) {
      EXPECT_EQ(std::memcmp(found[t].data(), expected[t].data(), found[t].size() * 4), 0) << t;
    }
  }

  const GoldenModel golden_;
  std::vector<uint32_t> tokens_;
};

TEST_F(ExpertFailureTest, ReplicaTakesOverAndNothingChanges) {
  Harness harness(golden_.weights, Options(3, /*replicas=*/2));
  harness.cluster.fault = [](const std::string& address, const ExpertRows&) {
    return address == "worker1:1" ? absl::UnavailableError("connection reset") : absl::OkStatus();
  };
  const absl::Time start = absl::Now();
  ExpectUnchanged(harness.Run({{0, RowKind::kPrefill, tokens_}}));
  EXPECT_LT(absl::Now() - start, absl::Milliseconds(350)) << "a replica needs no waiting";
  EXPECT_GT(harness.link.counters().frames_failed, 0u);
}

TEST_F(ExpertFailureTest, ANewerTableIsFetchedAfterFailedPrecondition) {
  Harness harness(golden_.weights, Options(2));
  // From now on worker 0 holds nothing; the harness publishes the table a moment later.
  int refused = 0;
  harness.cluster.fault = [&](const std::string& address, const ExpertRows& rows) {
    if (address != "worker0:1") return absl::OkStatus();
    if (++refused == 2) {
      auto next = harness.cluster.NextPlacement();
      for (auto& layer : *next->mutable_layers()) {
        for (auto& expert : *layer.mutable_experts()) expert.set_workers(0, 1);
      }
      harness.cluster.Publish(next);
    }
    return absl::FailedPreconditionError("expert not held under this epoch");
  };
  ExpectUnchanged(harness.Run({{0, RowKind::kPrefill, tokens_}}));
  EXPECT_EQ(refused, 2);
  EXPECT_EQ(harness.cluster.calls.back().epoch(), 2u);
}

TEST_F(ExpertFailureTest, AWorkerThatComesBackIsUsed) {
  Harness harness(golden_.weights, Options(2));
  int failures = 3;
  harness.cluster.fault = [&](const std::string& address, const ExpertRows&) {
    return address == "worker1:1" && failures-- > 0 ? absl::UnavailableError("restarting")
                                                    : absl::OkStatus();
  };
  ExpectUnchanged(harness.Run({{0, RowKind::kPrefill, tokens_}}));
}

TEST_F(ExpertFailureTest, OnlySequencesOfTheLostExpertFail) {
  // Six workers with one expert of each layer. Whoever is routed to the lost one is lost, the
  // others go on.
  Harness harness(golden_.weights, Options(6));
  harness.cluster.fault = [](const std::string& address, const ExpertRows&) {
    return address == "worker5:1" ? absl::UnavailableError("gone") : absl::OkStatus();
  };
  engine::v1::StepPlan plan;
  plan.set_deadline_ms(5000);
  for (uint64_t id = 1; id <= 12; ++id) {
    auto* start = plan.add_starts();
    start->set_sequence_id(id);
    start->set_prompt_tokens(1);
    auto* slice = plan.add_slices();
    slice->set_sequence_id(id);
    slice->set_kind(engine::v1::SLICE_KIND_PREFILL);
    slice->add_token_ids(static_cast<uint32_t>(id * 7));
    slice->add_new_pages(static_cast<uint32_t>(id));
    slice->set_sample(true);
  }
  const absl::Time began = absl::Now();
  const engine::v1::StepResult result = harness.engine.Run(plan, began);
  ASSERT_EQ(result.status_code(), 0u) << result.status_message();
  EXPECT_LT(absl::Now() - began, absl::Seconds(5));
  int failed = 0;
  for (const auto& slice : result.slices()) {
    EXPECT_NE(slice.has_token(), slice.status_code() != 0);
    if (slice.status_code() == 0) continue;
    ++failed;
    EXPECT_EQ(slice.status_code(), static_cast<uint32_t>(absl::StatusCode::kUnavailable));
    EXPECT_TRUE(absl::StrContains(slice.status_message(), "worker5:1")) << slice.status_message();
    EXPECT_TRUE(absl::StrContains(slice.status_message(), "expert 5")) << slice.status_message();
  }
  EXPECT_GT(failed, 0);
  EXPECT_LT(failed, 12);

  // A failed sequence stays failed until it is released.
  engine::v1::StepPlan next;
  next.set_deadline_ms(5000);
  for (const auto& slice : result.slices()) {
    auto* more = next.add_slices();
    more->set_sequence_id(slice.sequence_id());
    more->set_kind(engine::v1::SLICE_KIND_DECODE);
    more->set_start_position(1);
    more->add_token_ids(1);
    next.add_releases(slice.sequence_id());
  }
  harness.cluster.fault = nullptr;
  const engine::v1::StepResult after = harness.engine.Run(next, absl::Now());
  ASSERT_EQ(after.status_code(), 0u) << after.status_message();
  for (int i = 0; i < after.slices_size(); ++i) {
    EXPECT_EQ(after.slices(i).status_code(), result.slices(i).status_code());
  }
  EXPECT_EQ(harness.engine.sequences().size(), 0u);
}

TEST_F(ExpertFailureTest, FlaggedRowsAreAskedAgainPerExpert) {
  Harness harness(golden_.weights, Options(2));
  // Worker 0 claims that rows left the grid and sends rubbish for them.
  harness.cluster.tamper = [](const ExpertRows& rows, ExpertSums* sums) {
    if (rows.reply_form() != experts::v1::REPLY_FORM_GRID_SUM) return;
    if (rows.expert_ids(0) % 2 != 0) return;
    std::string flags(rows.experts_per_row_size(), '\0');
    flags[0] = 1;
    sums->set_row_flags(flags);
    std::memset(sums->mutable_sums()->mutable_data()->data(), 0x7F, rows.x().cols() * 4);
  };
  const LogitRows found = harness.Run({{0, RowKind::kPrefill, tokens_}});
  int again = 0;
  for (const ExpertRows& call : harness.cluster.calls) {
    again += call.reply_form() == experts::v1::REPLY_FORM_PER_EXPERT_F32;
  }
  EXPECT_GT(again, 0);
  // f32 sums instead of the grid's: equal within the grid's and bf16's rounding, not in bits. The
  // grid's step is 2^-20 of the row, far below bf16; one bf16 rounding that falls the other way is
  // amplified by the rest of the network.
  const LogitRows expected = Expected();
  for (size_t t = 0; t < found.size(); ++t) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < found[t].size(); ++i) {
      difference += std::pow(found[t][i] - expected[t][i], 2);
      size += std::pow(expected[t][i], 2);
    }
    EXPECT_LT(std::sqrt(difference / size), 0.05) << t;
  }
}

TEST_F(ExpertFailureTest, WrongSizesFromAWorkerAreNotBelieved) {
  Harness harness(golden_.weights, Options(1));
  harness.cluster.tamper = [](const ExpertRows&, ExpertSums* sums) {
    sums->mutable_sums()->set_cols(sums->sums().cols() - 1);
  };
  engine::v1::StepPlan plan;
  plan.set_deadline_ms(5000);
  auto* start = plan.add_starts();
  start->set_sequence_id(1);
  start->set_prompt_tokens(1);
  auto* slice = plan.add_slices();
  slice->set_sequence_id(1);
  slice->set_kind(engine::v1::SLICE_KIND_PREFILL);
  slice->add_token_ids(3);
  slice->add_new_pages(0);
  slice->set_sample(true);
  const engine::v1::StepResult result = harness.engine.Run(plan, absl::Now());
  ASSERT_EQ(result.status_code(), 0u);
  EXPECT_NE(result.slices(0).status_code(), 0u);
  EXPECT_FALSE(result.slices(0).has_token());
}

}  // namespace
}  // namespace tandem::gpu_worker
