// Experts computed by the GPU worker itself, on its processor or its GPU (the emulator, in every
// build): bit-equal logits, whichever they are, and fewer rows on the wire.
#include "gpu_worker/experts/local_experts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <tuple>

#include "gpu_worker/backend/cuda/device_experts.h"
#include "tests/engine/harness.h"

namespace tandem::gpu_worker {
namespace {

constexpr int64_t kPrompt = 70, kAnswer = 6;

enum class Place { kProcessor, kDevice };

absl::StatusOr<std::unique_ptr<ExpertBackend>> DeviceFor(const ModelConfig& config) {
  cuda::DeviceExpertsOptions options;
  options.hidden = config.hidden_size;
  options.inter = config.moe_intermediate_size;
  options.rows_max = kPrompt;
  options.pairs_max = 50;  // a prompt takes several turns
  return cuda::DeviceExperts::Make(options);
}

class LocalExpertsTest : public testing::TestWithParam<std::tuple<Place, Precision>> {
 protected:
  LocalExpertsTest() : golden_(LoadGolden("v3")) {
    tokens_ = RandomTokens(kPrompt + kAnswer, golden_.weights.config.vocab_size, 5);
  }

  // Every `nth` expert of every layer with experts.
  HotExperts Every(uint32_t nth) const {
    HotExperts hot = {golden_.weights.digest, {}};
    const ModelConfig& config = golden_.weights.config;
    for (uint32_t layer = 0; layer < config.num_hidden_layers; ++layer) {
      if (!config.IsMoeLayer(layer)) continue;
      for (uint32_t e = 0; e < config.n_routed_experts; e += nth) hot.experts.insert({layer, e});
    }
    return hot;
  }

  absl::StatusOr<std::unique_ptr<LocalExperts>> Load(const HotExperts& hot, int threads = 2) const {
    LocalExperts::Options options;
    options.store.model_path = SourcePath("tests/golden/logits/v3");
    options.threads = threads;
    if (std::get<Place>(GetParam()) == Place::kDevice) options.make_backend = DeviceFor;
    return LocalExperts::Load(options, hot);
  }

  HarnessOptions Options(LocalExperts* local) const {
    HarnessOptions options;
    options.precision = std::get<Precision>(GetParam());
    options.workers = 2;
    if (local != nullptr) options.local = local->replicas();
    return options;
  }

  LogitRows Logits(Harness& harness) const {
    const auto at = [this](int64_t t) { return tokens_.begin() + t; };
    LogitRows logits = harness.Run({{0, RowKind::kPrefill, {at(0), at(kPrompt)}}});
    for (int64_t t = kPrompt; t < kPrompt + kAnswer; ++t) {
      logits.push_back(harness.Run({{0, RowKind::kDecode, {at(t), at(t + 1)}}})[0]);
    }
    return logits;
  }

  // (row, expert) pairs that went to other workers.
  static int64_t PairsOnTheWire(const Harness& harness) {
    int64_t pairs = 0;
    for (const auto& call : harness.cluster.calls) pairs += call.expert_ids_size();
    return pairs;
  }

  const GoldenModel golden_;
  std::vector<uint32_t> tokens_;
};

void ExpectSameBits(const LogitRows& a, const LogitRows& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t t = 0; t < a.size(); ++t) {
    ASSERT_EQ(a[t].size(), b[t].size());
    EXPECT_EQ(std::memcmp(a[t].data(), b[t].data(), a[t].size() * sizeof(float)), 0) << t;
  }
}

TEST_P(LocalExpertsTest, AnyListHasTheBitsOfNone) {
  Harness none(golden_.weights, Options(nullptr));
  const LogitRows expected = Logits(none);
  for (const uint32_t nth : {5u, 2u, 1u}) {
    const auto local = Load(Every(nth));
    ASSERT_TRUE(local.ok()) << local.status();
    Harness some(golden_.weights, Options(local->get()));
    ExpectSameBits(expected, Logits(some));
    if (nth == 1) {
      EXPECT_EQ(PairsOnTheWire(some), 0);
    } else {
      EXPECT_GT(PairsOnTheWire(some), 0);
      EXPECT_LT(PairsOnTheWire(some), PairsOnTheWire(none));
    }
  }
}

TEST_P(LocalExpertsTest, HalvesInFlightShareThem) {
  Harness none(golden_.weights, Options(nullptr));
  const LogitRows expected = Logits(none);
  const auto local = Load(Every(2), /*threads=*/1);
  ASSERT_TRUE(local.ok()) << local.status();
  HarnessOptions options = Options(local->get());
  options.forward.half_rows_min = 2;
  Harness halves(golden_.weights, options);
  ExpectSameBits(expected, Logits(halves));
}

TEST_P(LocalExpertsTest, WhatTheRouterChoseIsCounted) {
  Harness harness(golden_.weights, Options(nullptr));
  const ModelConfig& config = golden_.weights.config;
  std::vector<uint32_t> layers;
  for (uint32_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (config.IsMoeLayer(layer)) layers.push_back(layer);
  }
  RoutingCounter counter(golden_.weights.digest, layers, config.n_routed_experts);
  harness.link.CountRouting(&counter);
  Logits(harness);
  // The workers were asked for just these.
  RoutingCounts asked = {golden_.weights.digest, counter.Counts().rows};
  for (auto& [layer, rows] : asked.rows) std::fill(rows.begin(), rows.end(), 0);
  for (const auto& call : harness.cluster.calls) {
    for (const uint32_t expert : call.expert_ids()) ++asked.rows.at(call.layer()).at(expert);
  }
  EXPECT_EQ(counter.Counts().rows, asked.rows);
  EXPECT_EQ(counter.Counts().model_digest, golden_.weights.digest);
  // A list made of these counts moves more than its share of the pairs off the wire.
  const HotExperts hot = PickHotExperts(asked, 3, [](uint32_t, uint32_t) { return 1; });
  ASSERT_EQ(hot.experts.size(), 3u);
  const auto local = Load(hot);
  ASSERT_TRUE(local.ok()) << local.status();
  Harness with(golden_.weights, Options(local->get()));
  Logits(with);
  const int64_t moved = PairsOnTheWire(harness) - PairsOnTheWire(with);
  const auto experts = static_cast<int64_t>(layers.size()) * config.n_routed_experts;
  EXPECT_GT(moved * experts, 3 * PairsOnTheWire(harness));
}

TEST_P(LocalExpertsTest, ListsOfOtherModelsAreRefused) {
  HotExperts other = Every(2);
  other.model_digest = "another";
  const auto wrong_model = Load(other);
  EXPECT_EQ(wrong_model.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(wrong_model.status().message()), testing::HasSubstr("another"));
  HotExperts beyond = Every(2);
  beyond.experts.insert({1, 1000});
  EXPECT_EQ(Load(beyond).status().code(), absl::StatusCode::kOutOfRange);
}

TEST_P(LocalExpertsTest, TheBudgetIsKept) {
  LocalExperts::Options options;
  options.store.model_path = SourcePath("tests/golden/logits/v3");
  options.store.memory_bytes_max = 1;
  EXPECT_EQ(LocalExperts::Load(options, Every(2)).status().code(),
            absl::StatusCode::kResourceExhausted);
}

// The shipped model's quantized experts, of which each file has several types.
class QuizExpertsTest : public testing::TestWithParam<const char*> {};

TEST_P(QuizExpertsTest, TheDeviceHasTheBitsOfTheWorkers) {
  const std::string folder = SourcePath("models/quiz");
  const std::string experts = folder + "/gguf/quiz-" + GetParam() + ".gguf";
  const auto weights = LoadModel(ModelSources{folder, experts});
  ASSERT_TRUE(weights.ok()) << weights.status();
  LocalExperts::Options options;
  options.store.model_path = experts;
  options.store.dense_path = folder;
  options.make_backend = DeviceFor;
  HotExperts hot = {weights->digest, {}};
  for (uint32_t layer = 0; layer < weights->config.num_hidden_layers; ++layer) {
    if (!weights->config.IsMoeLayer(layer)) continue;
    for (uint32_t e = 0; e < weights->config.n_routed_experts; ++e) hot.experts.insert({layer, e});
  }
  const auto local = LocalExperts::Load(options, hot);
  ASSERT_TRUE(local.ok()) << local.status();
  const std::vector<uint32_t> tokens = RandomTokens(4, weights->config.vocab_size, 5);
  const auto logits = [&](LocalExperts* own) {
    HarnessOptions with;
    with.precision = Precision::kBf16;
    if (own != nullptr) with.local = own->replicas();
    Harness harness(*weights, with);
    LogitRows rows = harness.Run({{0, RowKind::kPrefill, {tokens.begin(), tokens.begin() + 3}}});
    rows.push_back(harness.Run({{0, RowKind::kDecode, {tokens[3]}}})[0]);
    EXPECT_EQ(harness.cluster.calls.empty(), own != nullptr);
    return rows;
  };
  ExpectSameBits(logits(nullptr), logits(local->get()));
}

INSTANTIATE_TEST_SUITE_P(Files, QuizExpertsTest, testing::Values("Q4_K_M", "Q8_0", "IQ1_S"),
                         [](const auto& info) { return std::string(info.param); });

INSTANTIATE_TEST_SUITE_P(
    Places, LocalExpertsTest,
    testing::Combine(testing::Values(Place::kProcessor, Place::kDevice),
                     testing::Values(Precision::kBf16, Precision::kF32)),
    [](const auto& info) {
      return std::string(std::get<Place>(info.param) == Place::kDevice ? "Device" : "Processor") +
             (std::get<Precision>(info.param) == Precision::kBf16 ? "Bf16" : "F32");
    });

}  // namespace
}  // namespace tandem::gpu_worker
