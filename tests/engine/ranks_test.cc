// The promise that tokens do not depend on how many ranks share the work: logits are bit-equal to
// those of one rank, in every format, attention kernel and model family, whatever the speed of a
// rank; and a rank that is gone is an error in time. Models have four heads of 96 query outputs,
// which cuts fp8's blocks of 128, and an FFN whose tiles do not divide evenly.
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "gpu_worker/backend/shard/in_process_group.h"
#include "gpu_worker/backend/shard/sharded_backend.h"
#include "lib/kernels/onednn_linear.h"
#include "tests/engine/harness.h"
#include "tests/engine/synth_model.h"

namespace tandem::gpu_worker {
namespace {

// One page and a bit, and an answer.
constexpr int64_t kPrompt = 70, kAnswer = 4;

// Made once.
const ModelWeights& SynthModel(const std::string& family, const std::string& format) {
  static auto* models = new std::map<std::string, ModelWeights>;
  const std::string name = absl::StrCat(family, "_", format);
  const auto found = models->find(name);
  if (found != models->end()) return found->second;
  return models->emplace(name, MakeSynthModel(SynthConfig(family), format)).first->second;
}

struct Setting {
  const char* name;
  const char* family;
  const char* weights;  // as stored
  LinearFormat linear;
  AttentionKernel attention = AttentionKernel::kFlash;
  Precision precision = Precision::kBf16;
};

HarnessOptions OptionsOf(const Setting& setting) {
  HarnessOptions options;
  options.precision = setting.precision;
  options.attention = setting.attention;
  options.linear = setting.linear;
  return options;
}

// A backend of several ranks whose members of the group are what `wrap` makes of them.
using Wrap = std::function<std::unique_ptr<Collective>(std::unique_ptr<Collective>)>;
std::unique_ptr<ShardedBackend> MakeWrapped(const ModelWeights& weights, int ranks,
                                            absl::Duration wait_max, const Wrap& wrap,
                                            std::function<void(const absl::Status&)> on_failure) {
  HostBackendOptions host;
  host.rows_max = 128;
  const ShardPlan plan = ShardPlan::Make(weights.config, ranks).value();
  const auto group = InProcessGroup::Make(ranks, wait_max);
  ShardedOptions options;
  options.ranks = ranks;
  options.call_max = 2 * wait_max;
  options.on_failure = std::move(on_failure);
  auto made = ShardedBackend::Make(
      weights.config,
      [&](int rank) -> absl::StatusOr<RankParts> {
        RankParts parts;
        parts.collective = wrap(group->Rank(rank));
        parts.backend = MakeHostRank(weights, host, plan, rank, parts.collective.get()).value();
        return parts;
      },
      options);
  return std::move(made).value();
}

// Prompts of two sequences in one pass, then answers token by token beside a third prompt.
LogitRows Answer(Harness& harness) {
  const std::vector<uint32_t> tokens = RandomTokens(kPrompt + kAnswer, 128, 5);
  const auto piece = [&](int64_t begin, int64_t end) {
    return std::vector<uint32_t>(tokens.begin() + begin, tokens.begin() + end);
  };
  LogitRows logits =
      harness.Run({{0, RowKind::kPrefill, piece(0, kPrompt)}, {1, RowKind::kPrefill, piece(3, 9)}});
  for (int64_t t = kPrompt; t < kPrompt + kAnswer; ++t) {
    for (auto& row : harness.Run({{1, RowKind::kDecode, piece(t - 5, t - 4)},
                                  {0, RowKind::kDecode, piece(t, t + 1)},
                                  {2, RowKind::kPrefill, piece(t - 3, t)}})) {
      logits.push_back(std::move(row));
    }
  }
  return logits;
}

void ExpectSameBits(const LogitRows& a, const LogitRows& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t t = 0; t < a.size(); ++t) {
    ASSERT_EQ(a[t].size(), b[t].size());
    ASSERT_EQ(std::memcmp(a[t].data(), b[t].data(), a[t].size() * sizeof(float)), 0) << "row " << t;
  }
}

void ExpectFiniteAndDifferent(const LogitRows& rows) {
  for (const auto& row : rows) {
    for (const float x : row) ASSERT_TRUE(std::isfinite(x));
    ASSERT_NE(row.front(), row.back());
  }
}

class RanksTest : public testing::TestWithParam<Setting> {
 protected:
  void SetUp() override {
    if (GetParam().linear.kernel == LinearKernel::kOneDnn && !kernels::OneDnnLinear::Available()) {
      GTEST_SKIP() << "oneDNN has no bf16 matmul on this processor";
    }
  }
};

TEST_P(RanksTest, SameBitsAsOne) {
  const ModelWeights& weights = SynthModel(GetParam().family, GetParam().weights);
  HarnessOptions options = OptionsOf(GetParam());
  Harness one(weights, options);
  const LogitRows expected = Answer(one);
  ExpectFiniteAndDifferent(expected);
  for (const int ranks : {2, 4}) {
    SCOPED_TRACE(ranks);
    options.ranks = ranks;
    options.threads = ranks == 2 ? 4 : 1;
    options.forward.half_rows_min = ranks == 2 ? 0 : 2;  // with two halves in flight, too
    Harness shared(weights, options);
    ExpectSameBits(expected, Answer(shared));
  }
}

constexpr AttentionKernel kReference = AttentionKernel::kReference;
INSTANTIATE_TEST_SUITE_P(
    Settings, RanksTest,
    testing::Values(
        Setting{"V2LiteNative", "deepseek_v2_lite_small", "bf16", LinearKernel::kNative},
        Setting{"V2Native", "deepseek_v2_small", "bf16", LinearKernel::kNative, kReference},
        Setting{"V3Native", "deepseek_v3_small", "bf16", LinearKernel::kNative},
        Setting{"KimiNative", "kimi_k2_small", "bf16", LinearKernel::kNative, kReference},
        Setting{"MoonlightNative", "moonlight_small", "bf16", LinearKernel::kNative},
        Setting{"V3F32", "deepseek_v3_small", "bf16", LinearKernel::kNative,
                AttentionKernel::kFlash, Precision::kF32},
        Setting{"V2LiteF32Reference", "deepseek_v2_lite_small", "bf16", LinearKernel::kNative,
                kReference, Precision::kF32},
        Setting{"V3OneDnn", "deepseek_v3_small", "bf16", LinearKernel::kOneDnn},
        Setting{"V2LiteOneDnn", "deepseek_v2_lite_small", "bf16", LinearKernel::kOneDnn},
        Setting{"V3Fp8OfFp8", "deepseek_v3_small", "fp8", LinearKernel::kFp8},
        Setting{"V3Fp8OfBf16Reference", "deepseek_v3_small", "bf16", LinearKernel::kFp8,
                kReference},
        Setting{"V2LiteFp8", "deepseek_v2_lite_small", "bf16", LinearKernel::kFp8},
        Setting{"KimiMarlin8", "kimi_k2_small", "bf16", {LinearKernel::kMarlin8, 64}},
        Setting{"V2LiteMarlin4", "deepseek_v2_lite_small", "bf16", LinearKernel::kMarlin4,
                kReference},
        Setting{"V3Marlin4OfFp8", "deepseek_v3_small", "fp8", {LinearKernel::kMarlin4, 64}},
        Setting{"V3NativeOfFp8", "deepseek_v3_small", "fp8", LinearKernel::kNative},
        Setting{"V3StoredFp8", "deepseek_v3_small", "fp8", LinearKernel::kStored},
        Setting{"V2StoredQ4K", "deepseek_v2_small", "q4_K_M", LinearKernel::kStored},
        Setting{"V3StoredQ8Reference", "deepseek_v3_small", "q8_0", LinearKernel::kStored,
                kReference}),
    [](const auto& info) { return info.param.name; });

// Trained weights, and a head that is the embedding in one and not in the other.
TEST(RanksOfQuizTest, SameBitsAsOne) {
  const ModelWeights weights = LoadModel(SourcePath("models/quiz")).value();
  ModelWeights tied = weights;
  tied.lm_head = tied.embedding;
  for (const ModelWeights* model : {&weights, static_cast<const ModelWeights*>(&tied)}) {
    HarnessOptions options;
    options.precision = Precision::kBf16;
    Harness one(*model, options);
    options.ranks = 4;
    Harness four(*model, options);
    ExpectSameBits(Answer(one), Answer(four));
  }
}

// A member of the group in front of which something happens before each gather.
class Hindered : public Collective {
 public:
  Hindered(std::unique_ptr<Collective> in, std::function<void()> before)
      : in_(std::move(in)), before_(std::move(before)) {}
  int rank() const override { return in_->rank(); }
  int ranks() const override { return in_->ranks(); }
  absl::Status AllGather(const void* part, void* whole, size_t bytes, CUstream_st* s) override {
    before_();
    return in_->AllGather(part, whole, bytes, s);
  }
  absl::Status Barrier() override { return in_->Barrier(); }
  void Abort(const absl::Status& why) override { in_->Abort(why); }
  absl::Status status() const override { return in_->status(); }

 private:
  const std::unique_ptr<Collective> in_;
  const std::function<void()> before_;
};

// Sleeps a while before it meets the others, each time another while.
std::unique_ptr<Collective> Dawdling(std::unique_ptr<Collective> in) {
  auto random = std::make_shared<std::mt19937>(in->rank());
  return std::make_unique<Hindered>(
      std::move(in), [random] { absl::SleepFor(absl::Microseconds((*random)() % 3000)); });
}

// Comes to a few gathers, then not for a while.
std::unique_ptr<Collective> Leaving(std::unique_ptr<Collective> in, int gathers,
                                    absl::Duration away) {
  auto left = std::make_shared<int>(gathers);
  return std::make_unique<Hindered>(std::move(in), [left, away] {
    if ((*left)-- == 0) absl::SleepFor(away);
  });
}

TEST(RanksInTimeTest, SlowRanksGiveTheSameBits) {
  const ModelWeights& weights = SynthModel("deepseek_v3_small", "bf16");
  HarnessOptions options;
  options.precision = Precision::kBf16;
  Harness one(weights, options);
  options.make_backend = [](const ModelWeights& w) -> std::unique_ptr<Backend> {
    return MakeWrapped(w, 4, absl::Seconds(60), Dawdling,
                       [](const absl::Status& why) { FAIL() << why; });
  };
  Harness slow(weights, options);
  ExpectSameBits(Answer(one), Answer(slow));
}

TEST(RanksInTimeTest, ARankThatLeavesIsNamedInTime) {
  const ModelWeights& weights = SynthModel("deepseek_v3_small", "bf16");
  absl::Status failure;
  const auto backend = MakeWrapped(
      weights, 2, absl::Seconds(1),
      [](std::unique_ptr<Collective> c) -> std::unique_ptr<Collective> {
        if (c->rank() == 0) return c;
        return Leaving(std::move(c), 3, absl::Seconds(3));
      },
      [&](const absl::Status& why) { failure = why; });
  const auto x = backend->NewRows(RowShape::kHidden, 8), h = backend->NewRows(RowShape::kHidden, 8);
  const auto q = backend->NewRows(RowShape::kQueries, 8);
  const auto attended = backend->NewRows(RowShape::kAttended, 8);
  const std::vector<uint32_t> pages = {0};
  StepBatch step;
  step.token_ids = {1, 2};
  step.positions = {0, 1};
  step.segments = {{RowKind::kPrefill, 0, 2, 0, pages}};
  const absl::Time begin = absl::Now();
  backend->BeginStep(0, step);
  backend->Embed(*x);  // the first gather
  backend->Norm(0, NormSite::kBeforeAttention, *x, *h);
  backend->ProjectAndCache(0, *h, *q);
  backend->Attend(0, *q, *attended);
  backend->AddAttentionOutput(0, *attended, *x);  // two more
  backend->Norm(0, NormSite::kBeforeFfn, *x, *h);
  backend->AddDenseFfn(0, *h, *x);
  std::vector<float> logits;
  backend->ComputeLogits(std::vector<LogitRow>{{x.get(), 1}})
      .Rows(std::vector<int64_t>{0}, &logits);
  EXPECT_TRUE(logits.empty());
  EXPECT_LT(absl::Now() - begin, absl::Seconds(3)) << "not when the rank was back";
  EXPECT_EQ(failure.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(failure.message(), "rank 1 of 2 did not come to meeting 6 within 1s");
  EXPECT_EQ(backend->status(), failure);
  absl::SleepFor(begin + absl::Seconds(3) - absl::Now());  // the destructor waits two seconds
}

TEST(RanksRefusalTest, HeadsThatDoNotDivide) {
  const ModelWeights& weights = SynthModel("deepseek_v3_small", "bf16");
  HostBackendOptions options;
  options.ranks = 3;
  EXPECT_EQ(MakeHostBackend(weights, options).status(),
            absl::InvalidArgumentError(
                "attention is shared out by whole heads: expected a number of ranks that divides 4 "
                "heads, found 3 ranks"));
}

}  // namespace
}  // namespace tandem::gpu_worker
