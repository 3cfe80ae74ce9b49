// The machinery around ranks, with backends that only say what was asked of them: every rank hears
// the same calls in the same order, and a rank that fails, is stuck or cannot start is an error in
// time. What real ranks compute is tests/engine/ranks_test.cc.
#include "gpu_worker/backend/shard/sharded_backend.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gpu_worker/backend/shard/in_process_group.h"

namespace tandem::gpu_worker {
namespace {

constexpr int64_t kHidden = 4, kVocab = 6, kRowsMax = 8;

ModelConfig SmallConfig() {
  ModelConfig config;
  config.hidden_size = kHidden;
  config.vocab_size = kVocab;
  return config;
}

struct NotedRows : DeviceRows {
  explicit NotedRows(int rank_in) : rank(rank_in) {}
  int rank;
};

// What happens to the rank of a test.
struct Script {
  int rank = -1;
  absl::Duration sleep = absl::ZeroDuration();  // in AddDenseFfn, before meeting the others
  bool meet_in_ffn = true;                      // otherwise AddDenseFfn only sleeps
  absl::Status fail = absl::OkStatus();         // in AddDenseFfn, instead of all that
};

// Two tokens of the vocabulary a rank: token i of row r has logit i + 10 r.
class RankLogits : public RowLogits {
 public:
  explicit RankLogits(int rank) : rank_(rank) {}
  void Best(int64_t k, BestLogits* best) override {
    const uint32_t id = 2 * rank_;
    *best = {k, {{id + 1, id + 1.0f}, {id, 1.0f * id}, kNoTokenLogit}, {kNoToken}};
    best->tokens.resize(k);
    if (rank_ > 0) best->not_finite[0] = id;
  }
  void WeightSums(std::span<const WeightSumAsk> asks, std::vector<uint64_t>* sums) override {
    sums->assign(asks.size(), uint64_t{1} << (40 + rank_));
  }
  void At(std::span<const LogitPlace> places, std::vector<float>* values) override {
    ASSERT_EQ(values->size(), places.size());
    for (size_t i = 0; i < places.size(); ++i) {
      if (places[i].id / 2 != static_cast<uint32_t>(rank_)) continue;
      (*values)[i] = static_cast<float>(places[i].id + 10 * places[i].row);
    }
  }
  void Rows(std::span<const int64_t> rows, std::vector<float>* logits) override {
    ASSERT_EQ(logits->size(), rows.size() * kVocab);
    for (size_t r = 0; r < rows.size(); ++r) {
      for (int64_t id = 2 * rank_; id < 2 * rank_ + 2; ++id) {
        (*logits)[r * kVocab + id] = static_cast<float>(id + 10 * rows[r]);
      }
    }
  }

 private:
  const int rank_;
};

class NotingBackend : public Backend {
 public:
  NotingBackend(int rank, Collective& collective, Script script, std::vector<std::string>& log)
      : rank_(rank), collective_(collective), script_(std::move(script)), log_(log), logits_(rank) {
    info_.rows_max = kRowsMax;
    info_.logit_rows_max = kRowsMax;
  }
  const BackendInfo& info() const override { return info_; }
  std::unique_ptr<DeviceRows> NewRows(RowShape, int64_t) override {
    return std::make_unique<NotedRows>(rank_);
  }
  void BeginStep(int slot, const StepBatch& step) override {
    log_.push_back(absl::StrCat("begin ", slot, " ", step.rows()));
  }
  void SelectSlot(int slot) override { log_.push_back(absl::StrCat("select ", slot)); }
  std::span<std::byte> WireRows(int) override { return {}; }
  std::span<float> RoutedRows(int slot) override { return routed_[slot]; }
  void Embed(DeviceRows& x) override { Note("embed", x); }
  void Norm(int64_t layer, NormSite, const DeviceRows& x, DeviceRows& out) override {
    Note(absl::StrCat("norm ", layer), x, &out);
  }
  void ProjectAndCache(int64_t, const DeviceRows& h, DeviceRows& q) override {
    Note("project", h, &q);
  }
  void Attend(int64_t, const DeviceRows& q, DeviceRows& attended) override {
    Note("attend", q, &attended);
  }
  void AddAttentionOutput(int64_t, const DeviceRows& attended, DeviceRows& x) override {
    Note("output", attended, &x);
  }
  void AddDenseFfn(int64_t, const DeviceRows& h, DeviceRows& x) override {
    Note("dense", h, &x);
    if (script_.rank == rank_) {
      if (!script_.fail.ok()) return collective_.Abort(script_.fail);
      absl::SleepFor(script_.sleep);
    }
    if (script_.meet_in_ffn) (void)collective_.Barrier();
  }
  void StartRoute(int64_t, const DeviceRows& h, const std::vector<uint32_t>*) override {
    Note("route", h);
  }
  void StartReadRows(const DeviceRows& h) override { Note("read", h); }
  void FinishRoute(RouterChoice* choice) override {
    choice->experts_per_row = rank_ + 1;
    log_.push_back("finish");
  }
  void SharedFfn(int64_t, const DeviceRows& h, DeviceRows& out) override {
    Note("shared", h, &out);
  }
  void AddMoe(const DeviceRows& shared, DeviceRows& x) override {
    Note(absl::StrCat("moe ", routed_[0][0], " ", routed_[0][3], " ", routed_[0][4]), shared, &x);
  }
  RowLogits& ComputeLogits(std::span<const LogitRow> rows) override {
    for (const LogitRow& row : rows) Note(absl::StrCat("logits ", row.row), *row.x);
    return logits_;
  }
  void NoteDeviceSpans(bool on) override { log_.push_back(absl::StrCat("note ", on)); }
  std::vector<DeviceSpan> TakeDeviceSpans() override { return {{.layer = rank_}}; }

 private:
  void Note(std::string what, const DeviceRows& a, const DeviceRows* b = nullptr) {
    EXPECT_EQ(static_cast<const NotedRows&>(a).rank, rank_);
    EXPECT_TRUE(b == nullptr || static_cast<const NotedRows*>(b)->rank == rank_);
    log_.push_back(std::move(what));
  }

  const int rank_;
  Collective& collective_;
  const Script script_;
  std::vector<std::string>& log_;
  RankLogits logits_;
  BackendInfo info_;
  std::vector<float> routed_[kStepSlots] = {std::vector<float>(kRowsMax * kHidden),
                                            std::vector<float>(kRowsMax* kHidden)};
};

class ShardedBackendTest : public testing::Test {
 protected:
  static constexpr int kRanks = 3;

  std::unique_ptr<ShardedBackend> Make(const Script& script, absl::Duration meeting_max,
                                       absl::Duration call_max) {
    const auto group = InProcessGroup::Make(kRanks, meeting_max);
    const auto rank_parts = [=, this](int rank) -> absl::StatusOr<RankParts> {
      RankParts parts;
      parts.collective = group->Rank(rank);
      parts.backend = std::make_unique<NotingBackend>(rank, *parts.collective, script, logs_[rank]);
      return parts;
    };
    ShardedOptions options;
    options.ranks = kRanks;
    options.call_max = call_max;
    options.on_failure = [this](const absl::Status& why) {
      ++failures_;
      failure_ = why;
    };
    return std::move(*ShardedBackend::Make(SmallConfig(), rank_parts, options));
  }

  // A call that meets, and one that waits for all.
  absl::Status Step(ShardedBackend& backend) {
    const auto x = backend.NewRows(RowShape::kHidden, kRowsMax);
    backend.AddDenseFfn(0, *x, *x);
    std::vector<float> logits;
    backend.ComputeLogits(std::vector<LogitRow>{{x.get(), 0}})
        .Rows(std::vector<int64_t>{0}, &logits);
    return backend.status();
  }

  std::vector<std::string> logs_[kRanks];
  std::atomic<int> failures_{0};
  absl::Status failure_;
};

TEST_F(ShardedBackendTest, EveryRankHearsTheSameCalls) {
  const auto backend = Make({}, absl::Seconds(60), absl::Seconds(120));
  const auto x = backend->NewRows(RowShape::kHidden, kRowsMax);
  const auto h = backend->NewRows(RowShape::kHidden, kRowsMax);
  StepBatch step;
  step.token_ids = {1};
  step.positions = {0};
  backend->NoteDeviceSpans(true);
  backend->BeginStep(1, step);
  backend->SelectSlot(0);
  backend->BeginStep(0, step);
  backend->Embed(*x);
  backend->Norm(3, NormSite::kBeforeFfn, *x, *h);
  backend->ProjectAndCache(3, *h, *x);
  backend->Attend(3, *x, *h);
  backend->AddAttentionOutput(3, *h, *x);
  backend->AddDenseFfn(3, *h, *x);
  backend->StartRoute(4, *h, nullptr);
  backend->StartReadRows(*h);
  RouterChoice choice;
  backend->FinishRoute(&choice);
  EXPECT_EQ(choice.experts_per_row, 1) << "the choice is rank 0's";
  backend->SharedFfn(4, *h, *x);
  backend->RoutedRows(0)[0] = 5;
  backend->RoutedRows(0)[3] = 7;
  backend->RoutedRows(0)[4] = 9;  // of a row that the step does not have
  backend->AddMoe(*h, *x);
  std::vector<float> logits;
  backend->ComputeLogits(std::vector<LogitRow>{{x.get(), 2}, {h.get(), 0}})
      .Rows(std::vector<int64_t>{1, 0}, &logits);
  EXPECT_EQ(logits, (std::vector<float>{10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5}));
  const std::vector<DeviceSpan> spans = backend->TakeDeviceSpans();
  ASSERT_EQ(spans.size(), 1u);
  EXPECT_EQ(spans[0].layer, 0);

  const std::vector<std::string> others = {
      "note 1",  "begin 1 1", "select 0",  "begin 0 1", "embed",   "norm 3",
      "project", "attend",    "output",    "dense",     "route",   "read",
      "finish",  "shared",    "moe 5 7 0", "logits 2",  "logits 0"};
  std::vector<std::string> first = others;
  first[14] = "moe 5 7 9";
  EXPECT_EQ(logs_[0], first);
  EXPECT_EQ(logs_[1], others);
  EXPECT_EQ(logs_[2], others);
  EXPECT_TRUE(backend->status().ok());
  EXPECT_EQ(failures_, 0);
}

TEST_F(ShardedBackendTest, RanksAnswerForTheirTokens) {
  const auto backend = Make({}, absl::Seconds(60), absl::Seconds(120));
  const auto x = backend->NewRows(RowShape::kHidden, kRowsMax);
  RowLogits& logits = backend->ComputeLogits(std::vector<LogitRow>{{x.get(), 0}});
  BestLogits best;
  logits.Best(3, &best);
  EXPECT_EQ(best.k, 3);
  EXPECT_EQ(best.not_finite, std::vector<uint32_t>{2}) << "the lowest of all ranks";
  std::vector<uint64_t> sums;
  logits.WeightSums(std::vector<WeightSumAsk>{{0, 5, 1}, {0, 5, 2}}, &sums);
  EXPECT_EQ(sums, std::vector<uint64_t>(2, uint64_t{7} << 40));
  std::vector<float> values;
  logits.At(std::vector<LogitPlace>{{0, 5}, {3, 0}, {1, 2}, {0, 5}}, &values);
  EXPECT_EQ(values, (std::vector<float>{5, 30, 12, 5}));
}

TEST(MergeBestTest, IsTheOrderOfTheWhole) {
  // The second rank has one token, the third none.
  const std::vector<BestLogits> ranks = {
      {3, {{1, 2}, {0, 1}, {2, 1}, {2, -0.0f}, {0, -1}, {1, -2}}, {kNoToken, kNoToken}},
      {3,
       {{3, 1}, kNoTokenLogit, kNoTokenLogit, {3, 0.0f}, kNoTokenLogit, kNoTokenLogit},
       {kNoToken, kNoToken}},
      {3, std::vector<TokenLogit>(6, kNoTokenLogit), {kNoToken, kNoToken}}};
  const BestLogits whole = MergeBest(ranks);
  EXPECT_EQ(whole.k, 3);
  EXPECT_EQ(whole.tokens,
            (std::vector<TokenLogit>{{1, 2}, {0, 1}, {2, 1}, {2, -0.0f}, {3, 0.0f}, {0, -1}}));
  EXPECT_EQ(whole.not_finite, (std::vector<uint32_t>{kNoToken, kNoToken}));
}

TEST_F(ShardedBackendTest, ASlowRankChangesNothing) {
  const auto backend =
      Make({.rank = 1, .sleep = absl::Milliseconds(300)}, absl::Seconds(60), absl::Seconds(120));
  EXPECT_TRUE(Step(*backend).ok());
  EXPECT_EQ(failures_, 0);
}

TEST_F(ShardedBackendTest, ARankThatMissesAMeetingIsNamed) {
  const auto backend =
      Make({.rank = 2, .sleep = absl::Seconds(2)}, absl::Milliseconds(200), absl::Seconds(60));
  const absl::Time begin = absl::Now();
  EXPECT_EQ(Step(*backend).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(2)) << "not when the rank came at last";
  EXPECT_EQ(failure_.message(), "rank 2 of 3 did not come to meeting 0 within 200ms");
  EXPECT_EQ(failures_, 1);
  EXPECT_EQ(Step(*backend), failure_) << "calls go on doing nothing";
  RouterChoice choice;
  backend->FinishRoute(&choice);
  EXPECT_EQ(choice.experts_per_row, 0);
  EXPECT_EQ(failures_, 1);
}

TEST_F(ShardedBackendTest, ARankThatIsStuckAloneIsNamed) {
  const auto backend = Make({.rank = 1, .sleep = absl::Seconds(2), .meet_in_ffn = false},
                            absl::Seconds(60), absl::Milliseconds(300));
  const absl::Time begin = absl::Now();
  EXPECT_EQ(Step(*backend).code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_LT(absl::Now() - begin, absl::Seconds(2));
  EXPECT_EQ(failure_.message(), "rank 1 of 3 did not finish a call within 300ms");
  EXPECT_EQ(failures_, 1);
  // The destructor waits for the rank, for as long as a call may take.
  absl::SleepFor(begin + absl::Seconds(2) - absl::Now());
}

TEST_F(ShardedBackendTest, ARankThatFailsFailsAll) {
  const auto backend = Make({.rank = 0, .fail = absl::DataLossError("device 0 is gone")},
                            absl::Seconds(60), absl::Seconds(120));
  const absl::Time begin = absl::Now();
  EXPECT_EQ(Step(*backend), absl::DataLossError("device 0 is gone"));
  EXPECT_LT(absl::Now() - begin, absl::Seconds(30)) << "nobody waits for a meeting any more";
  EXPECT_EQ(failures_, 1);
}

TEST_F(ShardedBackendTest, ARankThatCannotStart) {
  ShardedOptions options;
  options.ranks = 2;
  options.on_failure = [this](const absl::Status&) { ++failures_; };
  const auto made = ShardedBackend::Make(
      SmallConfig(),
      [](int rank) -> absl::StatusOr<RankParts> {
        if (rank == 1) return absl::NotFoundError("expected CUDA device 1, found 1 devices");
        return RankParts{};
      },
      options);
  EXPECT_EQ(made.status(), absl::NotFoundError("expected CUDA device 1, found 1 devices"));
  EXPECT_EQ(failures_, 0) << "the caller says why it cannot start";
}

TEST_F(ShardedBackendTest, ManyCallsAreQueuedAndNoneIsLost) {
  const auto backend = Make({}, absl::Seconds(60), absl::Seconds(120));
  const auto x = backend->NewRows(RowShape::kHidden, kRowsMax);
  for (int i = 0; i < 5000; ++i) backend->Norm(i, NormSite::kBeforeFfn, *x, *x);
  EXPECT_EQ(backend->TakeDeviceSpans().size(), 1u);
  for (const auto& log : logs_) {
    ASSERT_EQ(log.size(), 5000u);
    EXPECT_EQ(log.back(), "norm 4999");
  }
}

using ShardedBackendDeathTest = ShardedBackendTest;

TEST_F(ShardedBackendDeathTest, WithoutAHandlerTheProcessEnds) {
  EXPECT_EXIT(
      {
        const auto group = InProcessGroup::Make(2, absl::Milliseconds(100));
        ShardedOptions options;
        options.ranks = 2;
        auto backend = ShardedBackend::Make(
            SmallConfig(),
            [&](int rank) -> absl::StatusOr<RankParts> {
              RankParts parts;
              parts.collective = group->Rank(rank);
              parts.backend = std::make_unique<NotingBackend>(
                  rank, *parts.collective, Script{.rank = 1, .sleep = absl::Seconds(5)},
                  logs_[rank]);
              return parts;
            },
            options);
        (void)Step(**backend);
      },
      testing::ExitedWithCode(1), "ranks_failed.*rank 1 of 2 did not come");
}

}  // namespace
}  // namespace tandem::gpu_worker
