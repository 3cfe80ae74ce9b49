// One body for all backends under the engine: golden models within computed tolerances, the same
// bits whatever the batch, and CUDA as close to the host as rounding allows. In every build the
// CUDA backend is on the emulator; with CUDA there is also a program for a GPU, where all of it
// runs at full speed. What the host has beyond that is in logits_test.cc and invariance_test.cc.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <string>

#include "gpu_worker/backend/cuda/cuda_backend.h"
#include "gpu_worker/backend/shard/in_process_group.h"
#include "gpu_worker/backend/shard/sharded_backend.h"
#include "gpu_worker/backend/shard/staged_collective.h"
#include "lib/base/check.h"
#include "tests/engine/harness.h"
#include "tests/engine/synth_model.h"
#include "tests/engine/tolerance.h"

namespace tandem::gpu_worker {
namespace {

using cuda::Kernels;

struct Setting {
  const char* name;
  Precision precision;
  AttentionKernel attention;
  Kernels kernels;
  LinearFormat linear;
  bool graphs;
  std::map<std::string, LinearFormat> linear_of = {};
  bool host = false;  // the host backend, which has neither kernels to choose nor graphs
};

// A recipe may give each projection a format of its own: some pairs that could be one product are
// two, some inputs are read in fp8 and in bf16, some fp8 products have no norm before them.
const std::map<std::string, LinearFormat> kMixed = {
    {"model.layers.0.self_attn.q_a_proj", LinearKernel::kMarlin8},
    {"model.layers.0.mlp.down_proj", LinearKernel::kNative},
    {"model.layers.1.self_attn.kv_a_proj_with_mqa", LinearKernel::kNative},
    {"model.layers.1.self_attn.q_b_proj", LinearKernel::kNative},
    {"model.layers.1.mlp.shared_experts.up_proj", LinearFormat(LinearKernel::kMarlin4, 64)},
    {"model.layers.2.self_attn.q_a_proj", LinearKernel::kNative},
    {"model.layers.2.self_attn.kv_a_proj_with_mqa", LinearKernel::kNative},
    {"model.layers.2.mlp.shared_experts.gate_proj", LinearKernel::kNative},
    {"model.layers.2.mlp.shared_experts.up_proj", LinearKernel::kNative},
};

constexpr int64_t kRowsMax = 64;

cuda::CudaBackendOptions DeviceOptions(const Setting& setting) {
  cuda::CudaBackendOptions o;
  o.formats.precision = setting.precision;
  o.formats.attention = setting.attention;
  o.formats.linear = setting.linear;
  o.formats.linear_of = setting.linear_of;
  o.kernels = setting.kernels;
  o.kv_pages = 16;
  o.rows_max = kRowsMax;
  o.graphs = setting.graphs;
  return o;
}

HostBackendOptions HostOptions(const Setting& setting) {
  HostBackendOptions o;
  o.precision = setting.precision;
  o.attention = setting.attention;
  o.linear = setting.linear;
  o.linear_of = setting.linear_of;
  o.kv_pages = 16;
  o.rows_max = kRowsMax;
  return o;
}

HarnessOptions OptionsFor(const Setting& setting) {
  HarnessOptions options;
  options.precision = setting.precision;
  options.workers = 2;
  options.make_backend = [setting](const ModelWeights& weights) {
    absl::StatusOr<std::unique_ptr<Backend>> backend =
        setting.host ? MakeHostBackend(weights, HostOptions(setting))
                     : cuda::MakeCudaBackend(weights, DeviceOptions(setting));
    if (!backend.ok()) base::CheckFailed(__FILE__, __LINE__, backend.status().ToString());
    return *std::move(backend);
  };
  options.kv_pages = 16;
  return options;
}

void ExpectSameExperts(const GoldenModel& golden, const std::vector<RouterChoice>& choices) {
  for (const auto& [layer, rows] : golden.experts) {
    const int64_t k = golden.weights.config.num_experts_per_tok;
    ASSERT_EQ(choices[layer].expert_ids.size(), rows.size() * k);
    for (size_t t = 0; t < rows.size(); ++t) {
      std::vector<uint32_t> ids(choices[layer].expert_ids.begin() + t * k,
                                choices[layer].expert_ids.begin() + (t + 1) * k);
      std::sort(ids.begin(), ids.end());
      EXPECT_EQ(ids, rows[t]) << "layer " << layer << " token " << t;
    }
  }
}

const Setting kF32[] = {
    {"host_flash",
     Precision::kF32,
     AttentionKernel::kFlash,
     Kernels::kReference,
     LinearKernel::kNative,
     true,
     {},
     /*host=*/true},
    {"host_reference",
     Precision::kF32,
     AttentionKernel::kReference,
     Kernels::kReference,
     LinearKernel::kNative,
     true,
     {},
     /*host=*/true},
    {"cuda_flash", Precision::kF32, AttentionKernel::kFlash, Kernels::kReference,
     LinearKernel::kNative, true},
    {"cuda_reference", Precision::kF32, AttentionKernel::kReference, Kernels::kReference,
     LinearKernel::kNative, true},
};

class GoldenF32 : public testing::TestWithParam<std::tuple<std::string, Setting>> {};

TEST_P(GoldenF32, LogitsAreWithinTheComputedTolerance) {
  const GoldenModel golden = LoadGolden(std::get<0>(GetParam()));
  Harness harness(golden.weights, OptionsFor(std::get<1>(GetParam())));
  std::vector<RouterChoice> choices;
  const LogitRows logits = RunGolden(harness, golden, /*forced=*/false, &choices);
  ExpectSameExperts(golden, choices);
  const double delta = ToleranceF32(golden);
  double worst = 0;
  ASSERT_EQ(logits.size(), golden.logits.size());
  for (size_t t = 0; t < logits.size(); ++t) {
    const double size = Norm(golden.logits[t]);
    const double error = Norm(Minus(logits[t], golden.logits[t])) / size;
    worst = std::max(worst, error);
    EXPECT_LE(error, delta) << "token " << t;
    const auto [gap, best] = Top(golden.logits[t]);
    const size_t found = std::max_element(logits[t].begin(), logits[t].end()) - logits[t].begin();
    if (gap > 2 * delta * size) {
      EXPECT_EQ(found, best) << "token " << t;
    }
  }
  printf("  %s: relative error %.3g, tolerance %.3g (%.0f%%)\n", golden.name.c_str(), worst, delta,
         100 * worst / delta);
  EXPECT_LT(delta, 1e-3) << "the tolerance has become too wide to prove anything";
}

INSTANTIATE_TEST_SUITE_P(
    Models, GoldenF32, testing::Combine(testing::ValuesIn(GoldenNames()), testing::ValuesIn(kF32)),
    [](const auto& info) { return std::get<0>(info.param) + "_" + std::get<1>(info.param).name; });

LogitRows RunHost(const GoldenModel& golden, Setting setting, AttentionKernel attention) {
  setting.host = true;
  setting.attention = attention;
  Harness host(golden.weights, OptionsFor(setting));
  return RunGolden(host, golden, /*forced=*/true, nullptr);
}

double LargestDifference(const LogitRows& a, const LogitRows& b) {
  double worst = 0;
  EXPECT_EQ(a.size(), b.size());
  for (size_t t = 0; t < std::min(a.size(), b.size()); ++t) {
    const std::vector<double> row(b[t].begin(), b[t].end());
    worst = std::max(worst, Norm(Minus(a[t], row)) / Norm(row));
  }
  return worst;
}

// How far a row may be from the host's. Both backends round in the same places and sum in different
// orders, so they differ as two runs of the format that round at random: by sqrt(2) of what bf16's
// roundings cost, three times that for the worst row. In fp8 a last bit of an input that differs
// decides now and then between two neighbouring codes, which are 2^-3 apart: how much that is the
// host says itself, by the difference between its two attentions, which also differ in the order of
// sums alone.
double Bound(const GoldenModel& golden, const Setting& setting, const LogitRows& host) {
  if (setting.linear.kernel == LinearKernel::kFp8) {
    const AttentionKernel other = setting.attention == AttentionKernel::kFlash
                                      ? AttentionKernel::kReference
                                      : AttentionKernel::kFlash;
    return 3 * LargestDifference(RunHost(golden, setting, other), host);
  }
  return 3 * std::sqrt(2.0) * std::ldexp(1.0, -9) / std::sqrt(3.0) *
         std::sqrt(RoundingsBf16(golden.weights.config)) * Kappa(golden);
}

// Experts are forced, so that near ties of the router do not count.
void ExpectAsCloseAsRoundingAllows(const GoldenModel& golden, const Setting& setting) {
  const LogitRows host = RunHost(golden, setting, setting.attention);
  Harness device(golden.weights, OptionsFor(setting));
  const double found = LargestDifference(RunGolden(device, golden, /*forced=*/true, nullptr), host);
  const double bound = Bound(golden, setting, host);
  EXPECT_LE(found, bound);
  EXPECT_LT(bound, 0.75) << "the bound has become too wide to prove anything";
  printf("  %s %s: relative difference %.3g, bound %.3g\n", golden.name.c_str(), setting.name,
         found, bound);
}

class AgainstHost : public testing::TestWithParam<Setting> {};

TEST_P(AgainstHost, RowsAreAsCloseAsRoundingAllows) {
  ExpectAsCloseAsRoundingAllows(LoadGolden("v3"), GetParam());
}

// Models without q_a: q is one product with kv_a.
TEST(AgainstTheHost, ModelsWithoutQueryLatents) {
  const GoldenModel golden = LoadGolden("v2_lite");
  ASSERT_EQ(golden.weights.config.q_lora_rank, 0);
  ExpectAsCloseAsRoundingAllows(golden, {"fp8_hopper", Precision::kBf16, AttentionKernel::kFlash,
                                         Kernels::kHopper, LinearKernel::kFp8, true});
  ExpectAsCloseAsRoundingAllows(
      golden, {"kv_a_bf16_hopper",
               Precision::kBf16,
               AttentionKernel::kFlash,
               Kernels::kHopper,
               LinearKernel::kFp8,
               true,
               {{"model.layers.0.self_attn.kv_a_proj_with_mqa", LinearKernel::kNative}}});
}

// The shipped model has DeepSeek's own dimensions of a head (latent 512, rope 64, 128 and 128).
// What a float64 oracle says of it is not needed here: the host's f32 logits and experts stand in.
GoldenModel QuizModel() {
  GoldenModel quiz;
  quiz.name = "quiz";
  quiz.weights = LoadModel(SourcePath("models/quiz")).value();
  quiz.tokens = RandomTokens(12, quiz.weights.config.vocab_size, 3);
  quiz.prompt_tokens = 10;
  Harness host(quiz.weights, {});
  std::vector<RouterChoice> choices;
  for (const std::vector<float>& row : RunGolden(host, quiz, /*forced=*/false, &choices)) {
    quiz.logits.emplace_back(row.begin(), row.end());
  }
  const int64_t k = quiz.weights.config.num_experts_per_tok;
  for (size_t layer = 0; layer < choices.size(); ++layer) {
    const std::vector<uint32_t>& ids = choices[layer].expert_ids;
    for (size_t begin = 0; begin < ids.size(); begin += k) {
      quiz.experts[layer].emplace_back(ids.begin() + begin, ids.begin() + begin + k);
    }
  }
  return quiz;
}

class QuizAgainstHost : public testing::TestWithParam<Setting> {};

TEST_P(QuizAgainstHost, RowsAreAsCloseAsRoundingAllows) {
  ExpectAsCloseAsRoundingAllows(QuizModel(), GetParam());
}

const Setting kQuizAgainstHost[] = {
    {"bf16_portable", Precision::kBf16, AttentionKernel::kFlash, Kernels::kPortable,
     LinearKernel::kNative, true},
    {"marlin4_portable", Precision::kBf16, AttentionKernel::kFlash, Kernels::kPortable,
     LinearKernel::kMarlin4, true},
    {"fp8_hopper", Precision::kBf16, AttentionKernel::kFlash, Kernels::kHopper, LinearKernel::kFp8,
     true},
};
INSTANTIATE_TEST_SUITE_P(Formats, QuizAgainstHost, testing::ValuesIn(kQuizAgainstHost),
                         [](const auto& info) { return info.param.name; });

const Setting kAgainstHost[] = {
    {"bf16_reference", Precision::kBf16, AttentionKernel::kFlash, Kernels::kReference,
     LinearKernel::kNative, true},
    {"bf16_reference_attention", Precision::kBf16, AttentionKernel::kReference, Kernels::kReference,
     LinearKernel::kNative, false},
    {"fp8_reference", Precision::kBf16, AttentionKernel::kFlash, Kernels::kReference,
     LinearKernel::kFp8, true},
    {"marlin8_reference", Precision::kBf16, AttentionKernel::kFlash, Kernels::kReference,
     LinearKernel::kMarlin8, true},
    {"marlin4_64_reference", Precision::kBf16, AttentionKernel::kFlash, Kernels::kReference,
     LinearFormat(LinearKernel::kMarlin4, 64), true},
    {"bf16_portable", Precision::kBf16, AttentionKernel::kFlash, Kernels::kPortable,
     LinearKernel::kNative, true},
    {"bf16_portable_attention", Precision::kBf16, AttentionKernel::kReference, Kernels::kPortable,
     LinearKernel::kNative, false},
    {"fp8_portable", Precision::kBf16, AttentionKernel::kFlash, Kernels::kPortable,
     LinearKernel::kFp8, true},
    {"mixed_portable", Precision::kBf16, AttentionKernel::kFlash, Kernels::kPortable,
     LinearKernel::kFp8, true, kMixed},
    {"mixed_hopper", Precision::kBf16, AttentionKernel::kFlash, Kernels::kHopper,
     LinearKernel::kFp8, true, kMixed},
    {"marlin8_portable", Precision::kBf16, AttentionKernel::kFlash, Kernels::kPortable,
     LinearKernel::kMarlin8, true},
    {"marlin4_portable", Precision::kBf16, AttentionKernel::kFlash, Kernels::kPortable,
     LinearKernel::kMarlin4, true},
};
INSTANTIATE_TEST_SUITE_P(Formats, AgainstHost, testing::ValuesIn(kAgainstHost),
                         [](const auto& info) { return info.param.name; });

class Invariance : public testing::TestWithParam<Setting> {
 protected:
  void ExpectSame(const LogitRows& a, const LogitRows& b) {
    ASSERT_EQ(a.size(), b.size());
    for (size_t t = 0; t < a.size(); ++t) {
      ASSERT_EQ(a[t].size(), b[t].size());
      EXPECT_EQ(std::memcmp(a[t].data(), b[t].data(), a[t].size() * sizeof(float)), 0) << t;
    }
  }
  // A prompt in the given pieces, then an answer token by token.
  static LogitRows Run(Harness& harness, const std::vector<uint32_t>& tokens,
                       const std::vector<int64_t>& cuts, int64_t prompt, int sequence = 0) {
    LogitRows logits;
    int64_t begin = 0;
    for (const int64_t cut : cuts) {
      const LogitRows more = harness.Run(
          {{sequence, RowKind::kPrefill, {tokens.begin() + begin, tokens.begin() + cut}}});
      logits.insert(logits.end(), more.begin(), more.end());
      begin = cut;
    }
    for (size_t t = prompt; t < tokens.size(); ++t) {
      logits.push_back(harness.Run({{sequence, RowKind::kDecode, {tokens[t]}}})[0]);
    }
    return logits;
  }
};

TEST_P(Invariance, ChunksOfThePromptDoNotMatter) {
  const GoldenModel golden = LoadGolden("v3");
  const std::vector<uint32_t> tokens = RandomTokens(76, golden.weights.config.vocab_size, 5);
  const int64_t prompt = 70;
  Harness one(golden.weights, OptionsFor(GetParam()));
  Harness other(golden.weights, OptionsFor(GetParam()));
  const LogitRows a = Run(one, tokens, {50, 64, prompt}, prompt);
  const LogitRows b = Run(other, tokens, {1, 33, 65, prompt}, prompt);
  ExpectSame(a, b);
}

TEST_P(Invariance, TheOtherRowsOfAStepDoNotMatter) {
  const GoldenModel golden = LoadGolden("v3");
  const int64_t vocab = golden.weights.config.vocab_size, prompt = 20;
  std::vector<std::vector<uint32_t>> tokens;
  for (int s = 0; s < 3; ++s) tokens.push_back(RandomTokens(26, vocab, 100 + s));
  Harness alone(golden.weights, OptionsFor(GetParam()));
  std::vector<LogitRows> expected;
  for (int s = 0; s < 3; ++s) expected.push_back(Run(alone, tokens[s], {prompt}, prompt, s));
  Harness together(golden.weights, OptionsFor(GetParam()));
  std::vector<LogitRows> found(3);
  // The prompts one after the other, mixed with the answers of those that are there.
  for (int s = 0; s < 3; ++s) {
    found[s] =
        together.Run({{s, RowKind::kPrefill, {tokens[s].begin(), tokens[s].begin() + prompt}}});
  }
  for (int64_t t = prompt; t < 26; ++t) {
    std::vector<Piece> pieces;
    for (int s = 0; s < 3; ++s) pieces.push_back({s, RowKind::kDecode, {tokens[s][t]}});
    const LogitRows rows = together.Run(pieces);
    for (int s = 0; s < 3; ++s) found[s].push_back(rows[s]);
  }
  for (int s = 0; s < 3; ++s) ExpectSame(expected[s], found[s]);
}

// Prompts and answers in one step.
TEST_P(Invariance, MixedStepsDoNotMatter) {
  const GoldenModel golden = LoadGolden("v3");
  const int64_t vocab = golden.weights.config.vocab_size;
  const std::vector<uint32_t> a = RandomTokens(22, vocab, 7), b = RandomTokens(20, vocab, 8);
  Harness alone(golden.weights, OptionsFor(GetParam()));
  const LogitRows expected_a = Run(alone, a, {20}, 20, 0);
  const LogitRows expected_b = Run(alone, b, {20}, 20, 1);
  Harness mixed(golden.weights, OptionsFor(GetParam()));
  LogitRows found_a = mixed.Run({{0, RowKind::kPrefill, {a.begin(), a.begin() + 20}}});
  const LogitRows first = mixed.Run(
      {{0, RowKind::kDecode, {a[20]}}, {1, RowKind::kPrefill, {b.begin(), b.begin() + 12}}});
  const LogitRows second = mixed.Run(
      {{1, RowKind::kPrefill, {b.begin() + 12, b.end()}}, {0, RowKind::kDecode, {a[21]}}});
  found_a.push_back(first[0]);
  found_a.push_back(second.back());
  LogitRows found_b(first.begin() + 1, first.end());
  found_b.insert(found_b.end(), second.begin(), second.end() - 1);
  ExpectSame(expected_a, found_a);
  ExpectSame(expected_b, found_b);
}

// Two steps in flight, one in each slot.
TEST_P(Invariance, HalvesDoNotMatter) {
  const GoldenModel golden = LoadGolden("v3");
  const auto run = [&](int64_t half_rows_min) {
    HarnessOptions options = OptionsFor(GetParam());
    options.forward.half_rows_min = half_rows_min;
    Harness harness(golden.weights, options);
    LogitRows logits;
    for (int pass = 0; pass < 4; ++pass) {
      std::vector<Piece> pieces;
      for (int s = 0; s < 3 + pass / 2; ++s) {
        const bool prompt = pass == 0 || s == 2 + pass / 2;
        pieces.push_back({s, prompt ? RowKind::kPrefill : RowKind::kDecode,
                          RandomTokens(prompt ? 3 + 2 * s : 1, 128, 10 * pass + s)});
      }
      // Sequence 2 has its prompt in two pieces, the second while others answer.
      for (std::vector<float>& row : harness.Run(pieces)) logits.push_back(std::move(row));
      EXPECT_EQ(harness.forward.halves(), half_rows_min == 0 ? 1 : 2);
    }
    return logits;
  };
  ExpectSame(run(0), run(2));
}

const Setting kInvariant[] = {
    {"bf16_host",
     Precision::kBf16,
     AttentionKernel::kFlash,
     Kernels::kReference,
     LinearKernel::kNative,
     true,
     {},
     /*host=*/true},
    {"mixed_host", Precision::kBf16, AttentionKernel::kFlash, Kernels::kReference,
     LinearKernel::kFp8, true, kMixed, /*host=*/true},
    {"bf16_reference", Precision::kBf16, AttentionKernel::kFlash, Kernels::kReference,
     LinearKernel::kNative, true},
    {"bf16_portable", Precision::kBf16, AttentionKernel::kFlash, Kernels::kPortable,
     LinearKernel::kNative, true},
    {"bf16_portable_eager", Precision::kBf16, AttentionKernel::kFlash, Kernels::kPortable,
     LinearKernel::kNative, false},
    {"fp8_portable", Precision::kBf16, AttentionKernel::kFlash, Kernels::kPortable,
     LinearKernel::kFp8, true},
    {"mixed_hopper", Precision::kBf16, AttentionKernel::kFlash, Kernels::kHopper,
     LinearKernel::kFp8, true, kMixed},
    {"marlin4_portable", Precision::kBf16, AttentionKernel::kFlash, Kernels::kPortable,
     LinearKernel::kMarlin4, true},
};
INSTANTIATE_TEST_SUITE_P(Formats, Invariance, testing::ValuesIn(kInvariant),
                         [](const auto& info) { return info.param.name; });

// Ranks on threads of this process, which share the one device there is and gather through the
// host.
HarnessOptions RanksFor(Setting setting, int ranks) {
  setting.graphs = false;
  HarnessOptions options = OptionsFor(setting);
  options.make_backend = [setting, ranks](const ModelWeights& weights) -> std::unique_ptr<Backend> {
    const ShardPlan plan = ShardPlan::Make(weights.config, ranks).value();
    const auto group = InProcessGroup::Make(ranks, absl::Seconds(60));
    ShardedOptions sharded;
    sharded.ranks = ranks;
    auto backend = ShardedBackend::Make(
        weights.config,
        [&](int rank) -> absl::StatusOr<RankParts> {
          RankParts parts;
          // The widest row that is gathered here is one of all heads' values or of hidden.
          auto staged = cuda::MakeStagedCollective(group->Rank(rank), kRowsMax * 4096);
          if (!staged.ok()) return staged.status();
          parts.collective = *std::move(staged);
          auto made = cuda::MakeCudaRank(weights, DeviceOptions(setting), plan, rank,
                                         parts.collective.get());
          if (!made.ok()) return made.status();
          parts.backend = *std::move(made);
          return parts;
        },
        sharded);
    if (!backend.ok()) base::CheckFailed(__FILE__, __LINE__, backend.status().ToString());
    return *std::move(backend);
  };
  return options;
}

class Ranks : public Invariance {};

TEST_P(Ranks, TheirNumberDoesNotMatter) {
  const GoldenModel golden = LoadGolden("v3");
  const std::vector<uint32_t> tokens = RandomTokens(24, golden.weights.config.vocab_size, 5);
  Harness one(golden.weights, OptionsFor(GetParam()));
  Harness two(golden.weights, RanksFor(GetParam(), 2));
  ExpectSame(Run(one, tokens, {13, 20}, 20), Run(two, tokens, {13, 20}, 20));
}

TEST_P(Ranks, NorInModelsWithoutQueryLatents) {
  const GoldenModel golden = LoadGolden("v2_lite");
  const std::vector<uint32_t> tokens = RandomTokens(10, golden.weights.config.vocab_size, 5);
  Harness one(golden.weights, OptionsFor(GetParam()));
  Harness two(golden.weights, RanksFor(GetParam(), 2));
  ExpectSame(Run(one, tokens, {7}, 7), Run(two, tokens, {7}, 7));
}

const Setting kRanks[] = {
    {"f32_reference", Precision::kF32, AttentionKernel::kFlash, Kernels::kReference,
     LinearKernel::kNative, true},
    {"f32_reference_attention", Precision::kF32, AttentionKernel::kReference, Kernels::kReference,
     LinearKernel::kNative, true},
    {"bf16_portable", Precision::kBf16, AttentionKernel::kFlash, Kernels::kPortable,
     LinearKernel::kNative, true},
    {"marlin4_portable", Precision::kBf16, AttentionKernel::kFlash, Kernels::kPortable,
     LinearKernel::kMarlin4, true},
};
INSTANTIATE_TEST_SUITE_P(Formats, Ranks, testing::ValuesIn(kRanks),
                         [](const auto& info) { return info.param.name; });

// Blocks of fp8 scales are as large as the golden models' layers; the shipped model's, of 256 and
// 512 outputs, two ranks can share.
class QuizRanks : public Invariance {};

TEST_P(QuizRanks, TheirNumberDoesNotMatter) {
  const ModelWeights weights = LoadModel(SourcePath("models/quiz")).value();
  const std::vector<uint32_t> tokens = RandomTokens(8, weights.config.vocab_size, 5);
  Harness one(weights, OptionsFor(GetParam()));
  Harness two(weights, RanksFor(GetParam(), 2));
  ExpectSame(Run(one, tokens, {5}, 5), Run(two, tokens, {5}, 5));
}

const Setting kQuizRanks[] = {
    {"fp8_portable", Precision::kBf16, AttentionKernel::kFlash, Kernels::kPortable,
     LinearKernel::kFp8, true},
    {"mixed_hopper", Precision::kBf16, AttentionKernel::kFlash, Kernels::kHopper,
     LinearKernel::kFp8, true, kMixed},
};
INSTANTIATE_TEST_SUITE_P(Formats, QuizRanks, testing::ValuesIn(kQuizRanks),
                         [](const auto& info) { return info.param.name; });

// Layers of two, four and eight blocks of 128 outputs, which share scales: some ranks have none.
class RanksOfBlocks : public Invariance {
 protected:
  static ModelWeights Model() {
    ModelConfig config = SynthConfig("deepseek_v3_small");
    // DeepSeek's own heads, two a rank: one has 192 outputs, which end amid a block.
    config.num_attention_heads = 8;
    config.qk_nope_head_dim = config.v_head_dim = 128;
    config.qk_rope_head_dim = 64;
    config.kv_lora_rank = 512;
    config.num_hidden_layers = 2;
    // Blocks that are in the file, and blocks that are made while loading.
    return MakeSynthModel(config, GetParam().kernels == Kernels::kPortable ? "fp8" : "bf16");
  }
};

TEST_P(RanksOfBlocks, TheirNumberDoesNotMatter) {
  const ModelWeights weights = Model();
  const std::vector<uint32_t> tokens = RandomTokens(9, weights.config.vocab_size, 5);
  Harness one(weights, OptionsFor(GetParam()));
  Harness four(weights, RanksFor(GetParam(), 4));
  ExpectSame(Run(one, tokens, {7}, 7), Run(four, tokens, {7}, 7));
}

const Setting kRanksOfBlocks[] = {
    {"fp8_portable", Precision::kBf16, AttentionKernel::kFlash, Kernels::kPortable,
     LinearKernel::kFp8, true},
    {"fp8_hopper", Precision::kBf16, AttentionKernel::kFlash, Kernels::kHopper, LinearKernel::kFp8,
     true},
};
INSTANTIATE_TEST_SUITE_P(Formats, RanksOfBlocks, testing::ValuesIn(kRanksOfBlocks),
                         [](const auto& info) { return info.param.name; });

// The device has the shared expert to do while its rows come to the host and go to the experts.
TEST(CudaBackend, SharedExpertsAreHandedOverBeforeRowsAreWaitedFor) {
  const GoldenModel golden = LoadGolden("v3");
  StepTrace trace(1);
  HarnessOptions options = OptionsFor({"bf16_portable", Precision::kBf16, AttentionKernel::kFlash,
                                       Kernels::kPortable, LinearKernel::kNative, true});
  options.forward.trace = &trace;
  Harness harness(golden.weights, options);
  trace.BeginStep(1);
  harness.Run({{0, RowKind::kPrefill, {5, 6, 7}}});
  trace.EndStep(3, 1, {}, {});
  std::map<int64_t, int64_t> handed_over_ns;  // by layer
  int waits = 0;
  for (const HostSpan& span : trace.Steps()[0]->host) {
    if (std::string(span.name) == "shared expert") handed_over_ns[span.layer] = span.end_ns;
    if (std::string(span.name) != "read rows") continue;
    ++waits;
    ASSERT_TRUE(handed_over_ns.contains(span.layer)) << span.layer;
    EXPECT_LE(handed_over_ns[span.layer], span.begin_ns) << span.layer;
  }
  EXPECT_GT(waits, 0);
}

TEST(CudaBackend, AShareThatBeginsAmidFp8BlocksIsRefused) {
  const ModelWeights weights = MakeSynthModel(SynthConfig("deepseek_v3_small"), "bf16");
  const ShardPlan plan = ShardPlan::Make(weights.config, 4).value();
  cuda::CudaBackendOptions options;
  options.formats.linear = LinearKernel::kFp8;
  options.kernels = Kernels::kReference;
  options.kv_pages = 16;
  const absl::Status status =
      cuda::MakeCudaRank(weights, options, plan, /*rank=*/1, /*collective=*/nullptr).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
  EXPECT_NE(status.message().find("use fewer ranks"), absl::string_view::npos) << status;
}

TEST(CudaBackend, WhatDoesNotFitIsSaidInOneSentence) {
  const GoldenModel golden = LoadGolden("v3");
  cuda::CudaBackendOptions options;
  options.kv_pages = int64_t{1} << 40;
  const auto backend = cuda::MakeCudaBackend(golden.weights, options);
  EXPECT_EQ(backend.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(backend.status().message().find("--kv-tokens"), absl::string_view::npos);
}

TEST(CudaBackend, FormatsOfTheHostAloneAreRefused) {
  const GoldenModel golden = LoadGolden("v3");
  cuda::CudaBackendOptions options;
  options.formats.linear = LinearKernel::kStored;
  EXPECT_EQ(cuda::MakeCudaBackend(golden.weights, options).status().code(),
            absl::StatusCode::kInvalidArgument);
  options.formats.linear = LinearKernel::kNative;
  options.formats.precision = Precision::kF32;  // needs reference kernels
  EXPECT_EQ(cuda::MakeCudaBackend(golden.weights, options).status().code(),
            absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace tandem::gpu_worker
