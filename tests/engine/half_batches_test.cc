// Two halves of a step in flight: the same bits as one, with whatever happens to the experts of
// either.
#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <random>
#include <thread>

#include "absl/strings/match.h"
#include "absl/time/clock.h"
#include "lib/base/bounded_queue.h"
#include "tests/engine/harness.h"

namespace tandem::gpu_worker {
namespace {

using engine::v1::StepPlan;
using engine::v1::StepResult;
using experts::v1::ExpertRows;
using experts::v1::ExpertSums;

constexpr absl::Duration kPatience = absl::Milliseconds(400);

HarnessOptions Options(int64_t half_rows_min, Precision precision = Precision::kBf16,
                       int workers = 1, int replicas = 1) {
  HarnessOptions options;
  options.precision = precision;
  options.workers = workers;
  options.replicas = replicas;
  options.kv_pages = 128;
  options.patience = kPatience;
  options.forward.half_rows_min = half_rows_min;
  return options;
}

void ExpectSameBits(const LogitRows& a, const LogitRows& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t t = 0; t < a.size(); ++t) {
    EXPECT_EQ(std::memcmp(a[t].data(), b[t].data(), a[t].size() * sizeof(float)), 0) << t;
  }
}

// Steps of prompts and answers of up to nine sequences, of which some come in later.
std::vector<std::vector<Piece>> Passes() {
  std::vector<std::vector<Piece>> passes;
  std::vector<Piece> first;
  for (int s = 0; s < 5; ++s)
    first.push_back({s, RowKind::kPrefill, RandomTokens(3 + 17 * s, 128, s)});
  passes.push_back(first);
  for (int t = 0; t < 6; ++t) {
    std::vector<Piece> pass;
    for (int s = 0; s < 5 + t / 2; ++s) {
      const bool known = s < 5 || t > 2 * (s - 5) + 2;
      pass.push_back({s, known ? RowKind::kDecode : RowKind::kPrefill,
                      RandomTokens(known ? 1 : 30, 128, 100 * t + s)});
    }
    // A prompt and its replayed answer in one step: two segments that must stay together.
    if (t == 3) {
      pass.push_back({8, RowKind::kPrefill, RandomTokens(12, 128, 77)});
      pass.push_back({8, RowKind::kDecode, RandomTokens(4, 128, 78)});
    }
    passes.push_back(std::move(pass));
  }
  return passes;
}

// All logits of all passes; `splits` counts those that went as two halves.
LogitRows RunAll(Harness& harness, int* splits = nullptr) {
  LogitRows all;
  for (const std::vector<Piece>& pass : Passes()) {
    for (std::vector<float>& row : harness.Run(pass)) all.push_back(std::move(row));
    if (splits != nullptr && harness.forward.halves() == 2) ++*splits;
  }
  return all;
}

struct Setting {
  const char* name;
  const char* model;
  Precision precision;
  AttentionKernel attention;
};

class SameBitsTest : public testing::TestWithParam<Setting> {};

TEST_P(SameBitsTest, WithAndWithoutHalves) {
  const GoldenModel golden = LoadGolden(GetParam().model);
  HarnessOptions options = Options(0, GetParam().precision);
  options.attention = GetParam().attention;
  Harness whole(golden.weights, options);
  int splits = 0;
  const LogitRows expected = RunAll(whole, &splits);
  EXPECT_EQ(splits, 0);
  for (const int workers : {1, 3}) {
    options.workers = workers;
    options.threads = workers == 1 ? 1 : 2;
    for (const int64_t rows_min : {2, 40}) {
      options.forward.half_rows_min = rows_min;
      Harness halves(golden.weights, options);
      splits = 0;
      ExpectSameBits(expected, RunAll(halves, &splits));
      // The first pass has 185 rows, the others fewer than 40.
      EXPECT_EQ(splits, rows_min == 2 ? 7 : 1) << rows_min;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Settings, SameBitsTest,
    testing::Values(Setting{"V3Bf16", "v3", Precision::kBf16, AttentionKernel::kFlash},
                    Setting{"V2LiteF32", "v2_lite", Precision::kF32, AttentionKernel::kFlash},
                    Setting{"KimiReference", "kimi_k2", Precision::kBf16,
                            AttentionKernel::kReference}),
    [](const auto& info) { return info.param.name; });

class HalfBatchesTest : public testing::Test {
 protected:
  HalfBatchesTest() : golden_(LoadGolden("v3")) {
    const ModelConfig& config = golden_.weights.config;
    for (int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
      moe_layers_ += config.IsMoeLayer(layer);
    }
  }

  LogitRows Expected() {
    Harness harness(golden_.weights, Options(0));
    return RunAll(harness);
  }

  // Twelve sequences of one token each, after a first one of nine.
  static StepPlan NewPlan(uint32_t deadline_ms) {
    StepPlan plan;
    plan.set_deadline_ms(deadline_ms);
    for (uint64_t id = 1; id <= 13; ++id) {
      auto* start = plan.add_starts();
      start->set_sequence_id(id);
      start->set_prompt_tokens(id == 1 ? kLongRows : 1);
      start->mutable_sampling()->set_temperature(1);
      start->mutable_sampling()->set_seed(id);
      auto* slice = plan.add_slices();
      slice->set_sequence_id(id);
      slice->set_kind(engine::v1::SLICE_KIND_PREFILL);
      for (uint32_t i = 0; i < start->prompt_tokens(); ++i) {
        slice->add_token_ids(static_cast<uint32_t>(id * 7 + i));
      }
      slice->add_new_pages(static_cast<uint32_t>(id));
      slice->set_sample(true);
    }
    return plan;
  }
  static constexpr uint32_t kLongRows = 9;

  // What the coordinator would see of a step, without the times.
  static std::vector<std::string> Answers(const StepResult& result) {
    std::vector<std::string> answers = {result.status_message()};
    for (const auto& slice : result.slices()) answers.push_back(slice.ShortDebugString());
    return answers;
  }

  StepResult RunPlan(int64_t half_rows_min, int workers, const InProcessCluster::Fault& fault,
                     uint32_t deadline_ms = 10'000) {
    Harness harness(golden_.weights, Options(half_rows_min, Precision::kBf16, workers));
    harness.cluster.fault = fault;
    const absl::Time began = absl::Now();
    StepResult result = harness.engine.Run(NewPlan(deadline_ms), began);
    took_ = absl::Now() - began;
    EXPECT_EQ(harness.engine.halves(), half_rows_min == 0 ? 1 : 2);
    return result;
  }

  const GoldenModel golden_;
  int64_t moe_layers_ = 0;
  absl::Duration took_;
};

// The worker answers only when it has calls of both halves, the later one first.
TEST_F(HalfBatchesTest, BothHalvesAreWithAWorkerAtOnce) {
  Harness harness(golden_.weights, Options(2));
  std::vector<std::function<void()>> held;
  int64_t together = 0;
  harness.cluster.deliver = [&](const std::string&, std::function<void()> answer) {
    held.push_back(std::move(answer));
    if (held.size() < 2) return;
    ++together;
    held[1]();
    held[0]();
    held.clear();
  };
  ExpectSameBits(Expected(), RunAll(harness));
  EXPECT_EQ(together, static_cast<int64_t>(Passes().size()) * moe_layers_);
  EXPECT_TRUE(held.empty());
  EXPECT_EQ(harness.link.counters().frames_failed, 0u);
}

TEST_F(HalfBatchesTest, AnswersInAnyOrderAndAtAnyTime) {
  for (const uint64_t seed : {1, 2, 3}) {
    Harness harness(golden_.weights, Options(2, Precision::kBf16, /*workers=*/3));
    base::BoundedQueue<std::function<void()>> answers(64);
    harness.cluster.deliver = [&](const std::string&, std::function<void()> answer) {
      EXPECT_TRUE(answers.TryPush(std::move(answer)));
    };
    std::thread worker([&answers, seed] {
      std::mt19937_64 random(seed);
      std::vector<std::function<void()>> held;
      while (!answers.closed()) {
        if (auto answer = answers.PopFor(absl::Microseconds(random() % 300))) {
          held.push_back(*std::move(answer));
          if (random() % 2 == 0) continue;
        }
        if (held.empty()) continue;
        std::swap(held[random() % held.size()], held.back());
        held.back()();
        held.pop_back();
      }
    });
    ExpectSameBits(Expected(), RunAll(harness));
    answers.Close();
    worker.join();
  }
}

TEST_F(HalfBatchesTest, AReplicaTakesOverForBoth) {
  Harness harness(golden_.weights, Options(2, Precision::kBf16, 3, /*replicas=*/2));
  harness.cluster.fault = [](const std::string& address, const ExpertRows&) {
    return address == "worker1:1" ? absl::UnavailableError("connection reset") : absl::OkStatus();
  };
  ExpectSameBits(Expected(), RunAll(harness));
  EXPECT_GT(harness.link.counters().frames_failed, 0u);
}

TEST_F(HalfBatchesTest, OnlySequencesOfTheLostExpertFail) {
  const auto fault = [](const std::string& address, const ExpertRows&) {
    return address == "worker5:1" ? absl::UnavailableError("gone") : absl::OkStatus();
  };
  // One expert of each layer on each worker.
  const int workers = static_cast<int>(golden_.weights.config.n_routed_experts);
  const StepResult whole = RunPlan(0, workers, fault), halves = RunPlan(2, workers, fault);
  EXPECT_EQ(Answers(halves), Answers(whole));
  int failed = 0;
  for (const auto& slice : halves.slices()) failed += slice.status_code() != 0;
  EXPECT_GT(failed, 0);
  EXPECT_LT(failed, halves.slices_size());
}

// Whose first call is refused is lost with all its rows; the other half does not notice.
TEST_F(HalfBatchesTest, OneHalfFailsForGood) {
  const StepResult good = RunPlan(0, 1, nullptr);
  int rows_lost = 0;
  const StepResult halves = RunPlan(2, 1, [&](const std::string&, const ExpertRows& rows) {
    if (rows_lost > 0) return absl::OkStatus();
    rows_lost = rows.experts_per_row_size();
    return absl::InternalError("the worker is broken");
  });
  ASSERT_EQ(halves.status_code(), 0u) << halves.status_message();
  int rows_failed = 0, good_slices = 0;
  for (int i = 0; i < halves.slices_size(); ++i) {
    if (halves.slices(i).status_code() == 0) {
      EXPECT_EQ(halves.slices(i).ShortDebugString(), good.slices(i).ShortDebugString());
      ++good_slices;
      continue;
    }
    rows_failed += i == 0 ? static_cast<int>(kLongRows) : 1;
    EXPECT_EQ(halves.slices(i).status_code(), static_cast<uint32_t>(absl::StatusCode::kInternal));
    EXPECT_TRUE(absl::StrContains(halves.slices(i).status_message(), "broken"));
  }
  EXPECT_EQ(rows_failed, rows_lost);
  EXPECT_GT(rows_lost, 0);
  EXPECT_GT(good_slices, 0);
}

TEST_F(HalfBatchesTest, BothHalvesFailInOnePatience) {
  const auto fault = [](const std::string&, const ExpertRows&) {
    return absl::UnavailableError("gone");
  };
  const StepResult halves = RunPlan(2, 2, fault);
  ASSERT_EQ(halves.status_code(), 0u) << halves.status_message();
  for (const auto& slice : halves.slices()) {
    EXPECT_EQ(slice.status_code(), static_cast<uint32_t>(absl::StatusCode::kUnavailable));
  }
  // One after the other they would take two.
  EXPECT_GE(took_, kPatience);
  EXPECT_LT(took_, 2 * kPatience);
}

TEST_F(HalfBatchesTest, FlaggedRowsOfBothAreAskedAgain) {
  const auto tamper = [](const ExpertRows& rows, ExpertSums* sums) {
    if (rows.reply_form() != experts::v1::REPLY_FORM_GRID_SUM) return;
    sums->set_row_flags(std::string(rows.experts_per_row_size(), '\1'));
    std::memset(sums->mutable_sums()->mutable_data()->data(), 0x7F, sums->sums().data().size());
  };
  Harness whole(golden_.weights, Options(0)), halves(golden_.weights, Options(2));
  whole.cluster.tamper = halves.cluster.tamper = tamper;
  ExpectSameBits(RunAll(whole), RunAll(halves));
  int again = 0;
  for (const ExpertRows& call : halves.cluster.calls) {
    again += call.reply_form() == experts::v1::REPLY_FORM_PER_EXPERT_F32;
  }
  EXPECT_EQ(again, 2 * static_cast<int>(Passes().size() * moe_layers_));
}

// Nobody answers: the step ends at its deadline, and what comes afterwards disturbs nobody.
TEST_F(HalfBatchesTest, TheDeadlineEndsBoth) {
  Harness harness(golden_.weights, Options(2));
  std::vector<std::function<void()>> held;
  harness.cluster.deliver = [&](const std::string&, std::function<void()> answer) {
    held.push_back(std::move(answer));
  };
  const absl::Time began = absl::Now();
  const StepResult late = harness.engine.Run(NewPlan(/*deadline_ms=*/300), began);
  EXPECT_LT(absl::Now() - began, absl::Milliseconds(900));
  EXPECT_EQ(late.status_code(), static_cast<uint32_t>(absl::StatusCode::kDeadlineExceeded));
  EXPECT_EQ(held.size(), 2u);
  for (const std::function<void()>& answer : held) answer();
  harness.cluster.deliver = nullptr;
  StepPlan forget;
  forget.set_deadline_ms(1000);
  for (uint64_t id = 1; id <= 13; ++id) forget.add_releases(id);
  ASSERT_EQ(harness.engine.Run(forget, absl::Now()).status_code(), 0u);
  const StepResult again = harness.engine.Run(NewPlan(10'000), absl::Now());
  EXPECT_EQ(Answers(again), Answers(RunPlan(0, 1, nullptr)));
}

// A worker leaves the table while it has calls of both halves: neither waits for it to time out,
// whichever of the two learns of the new table first.
TEST_F(HalfBatchesTest, ANewTableTakesBothElsewhere) {
  Harness harness(golden_.weights, Options(2, Precision::kBf16, /*workers=*/2));
  std::vector<std::function<void()>> held;
  harness.cluster.deliver = [&](const std::string& address, std::function<void()> answer) {
    if (address != "worker0:1" || harness.cluster.placement()->epoch() > 1) return answer();
    held.push_back(std::move(answer));
    if (held.size() < 2) return;
    auto next = harness.cluster.NextPlacement();
    next->mutable_workers(0)->set_ready(false);
    for (auto& layer : *next->mutable_layers()) {
      for (auto& expert : *layer.mutable_experts()) expert.set_workers(0, 1);
    }
    harness.cluster.Publish(next);
  };
  const absl::Time began = absl::Now();
  ExpectSameBits(Expected(), RunAll(harness));
  // An attempt that times out takes two seconds.
  EXPECT_LT(absl::Now() - began, absl::Milliseconds(1900));
  EXPECT_EQ(held.size(), 2u);
  EXPECT_EQ(harness.link.counters().frames_failed, 2u);
}

}  // namespace
}  // namespace tandem::gpu_worker
