// Every model config at hand, every number of ranks, every format: shares cover each layer once,
// lie where the format wants them and are as even as that allows.
#include "gpu_worker/backend/shard/shard_plan.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <utility>
#include <vector>

#include "lib/model/synth_presets.h"

namespace tandem::gpu_worker {
namespace {

namespace fs = std::filesystem;
using R = TensorRole;

constexpr int kRankCounts[] = {1, 2, 4, 8, 16, 32};

std::string SourceDir() {
  const char* root = std::getenv("TANDEM_SOURCE_DIR");
  return root == nullptr ? "." : root;
}

std::string DataDir() {
  const char* data = std::getenv("TANDEM_DATA");
  return data == nullptr ? SourceDir() + "/../shared/data" : data;
}

std::vector<ModelConfig> ConfigsIn(const std::string& folder) {
  std::vector<ModelConfig> configs;
  if (!fs::exists(folder)) return configs;
  for (const auto& entry : fs::directory_iterator(folder)) {
    if (entry.path().extension() != ".json") continue;
    std::ifstream file(entry.path());
    std::stringstream text;
    text << file.rdbuf();
    auto config = ParseHfConfig(text.str(), entry.path().string());
    EXPECT_TRUE(config.ok()) << config.status();
    if (config.ok()) configs.push_back(*std::move(config));
  }
  return configs;
}

struct Layer {
  R role;
  int64_t outputs;
};

// The matrices of one layer of each kind, the head and the embedding.
std::vector<Layer> LayersOf(const ModelConfig& c) {
  const int64_t heads = c.num_attention_heads;
  std::vector<Layer> layers = {
      {R::kEmbedding, c.vocab_size}, {R::kLmHead, c.vocab_size},
      {R::kKvA, c.kv_row_dim()},     {R::kKvB, heads * (c.qk_nope_head_dim + c.v_head_dim)},
      {R::kO, c.hidden_size},        {R::kDenseGate, c.intermediate_size},
      {R::kDenseDown, c.hidden_size}};
  if (c.q_lora_rank > 0) {
    layers.push_back({R::kQA, c.q_lora_rank});
    layers.push_back({R::kQB, heads * c.qk_head_dim()});
  } else {
    layers.push_back({R::kQ, heads * c.qk_head_dim()});
  }
  if (c.n_routed_experts > 0) layers.push_back({R::kRouter, c.n_routed_experts});
  if (c.n_shared_experts > 0) {
    layers.push_back({R::kSharedUp, c.n_shared_experts * c.moe_intermediate_size});
    layers.push_back({R::kSharedDown, c.hidden_size});
  }
  return layers;
}

void ExpectCoversOnce(const Split& split, int64_t total) {
  int64_t at = 0;
  for (int r = 0; r < split.ranks(); ++r) {
    EXPECT_EQ(split.of(r).begin, at);
    EXPECT_GE(split.of(r).size(), 0);
    at = split.of(r).end;
  }
  EXPECT_EQ(at, total);
}

void ExpectEvenAndAligned(const Split& split, int64_t total, const ShardNeeds& needs) {
  int64_t multiple = needs.multiple;
  while (multiple > needs.block && (total + multiple - 1) / multiple < split.ranks()) multiple /= 2;
  for (int r = 0; r < split.ranks(); ++r) {
    EXPECT_TRUE(split.of(r).end == total || split.of(r).end % multiple == 0);
    EXPECT_LE(split.part_max() - split.of(r).size(), 2 * multiple - 1);
    EXPECT_TRUE((total + needs.block - 1) / needs.block < split.ranks() || !split.of(r).empty());
  }
}

void ExpectGoodPlan(const ModelConfig& config, int ranks, const LinearFormat& format) {
  SCOPED_TRACE(config.name + config.model_type + ", ranks " + std::to_string(ranks) + ", " +
               NameOf(format));
  const auto plan = ShardPlan::Make(config, ranks);
  if (config.num_attention_heads % ranks != 0) {
    ASSERT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
    return;
  }
  ASSERT_TRUE(plan.ok()) << plan.status();
  const ShardNeeds needs = ShardNeedsOf(format);
  for (const Layer& layer : LayersOf(config)) {
    SCOPED_TRACE(LabelOf(layer.role));
    const Split split = plan->SplitOf(layer.role, layer.outputs, needs);
    ASSERT_EQ(split.ranks(), ranks);
    const ShardRange whole{0, layer.outputs};
    switch (ShardKindOf(layer.role)) {
      case ShardKind::kWhole:
        for (int r = 0; r < ranks; ++r) EXPECT_EQ(split.of(r), whole);
        break;
      case ShardKind::kFirstRank:
        for (int r = 0; r < ranks; ++r) EXPECT_EQ(split.of(r), r == 0 ? whole : ShardRange{});
        break;
      case ShardKind::kHeads:
        ExpectCoversOnce(split, layer.outputs);
        EXPECT_EQ(split.part_max() * ranks, layer.outputs);
        break;
      case ShardKind::kOutputs:
        ExpectCoversOnce(split, layer.outputs);
        ExpectEvenAndAligned(split, layer.outputs, needs);
        break;
      case ShardKind::kColumns:
        ExpectCoversOnce(split, config.hidden_size);
        ExpectEvenAndAligned(split, config.hidden_size, needs);
        break;
    }
    for (int r = 0; r < ranks && ShardKindOf(layer.role) != ShardKind::kColumns; ++r) {
      const ShardRange own = split.of(r), held = HeldRange(own, needs.block, layer.outputs);
      EXPECT_LE(held.begin, own.begin);
      EXPECT_GE(held.end, own.end);
      EXPECT_LT(held.size() - own.size(), 2 * needs.block);
      if (own.empty()) continue;
      if (ShardKindOf(layer.role) != ShardKind::kHeads) {
        EXPECT_EQ(held, own);
      }
      EXPECT_EQ(held.begin % needs.block, 0);
      EXPECT_TRUE(held.end % needs.block == 0 || held.end == layer.outputs);
    }
  }
}

const LinearFormat kFormats[] = {LinearKernel::kNative,  LinearKernel::kOneDnn,
                                 LinearKernel::kStored,  LinearKernel::kFp8,
                                 LinearKernel::kMarlin8, LinearKernel::kMarlin4};

void ExpectGoodPlans(const std::vector<ModelConfig>& configs) {
  for (const ModelConfig& config : configs) {
    for (const int ranks : kRankCounts) {
      for (const LinearFormat& format : kFormats) ExpectGoodPlan(config, ranks, format);
    }
  }
}

TEST(ShardPlanTest, SmallModels) {
  const auto configs = ConfigsIn(SourceDir() + "/tests/model/configs");
  ASSERT_GE(configs.size(), 5u);
  ExpectGoodPlans(configs);
}

TEST(ShardPlanTest, PublishedModels) {
  const auto configs = ConfigsIn(DataDir() + "/configs");
  if (configs.empty()) GTEST_SKIP() << "no " << DataDir() << "/configs";
  ExpectGoodPlans(configs);
}

ModelConfig Preset(const std::string& name) {
  return ParseHfConfig(SynthPresetConfig(name).value(), name).value();
}

TEST(ShardPlanTest, V3OverEightAndSixteen) {
  const auto eight = ShardPlan::Make(Preset("v3-layer"), 8),
             sixteen = ShardPlan::Make(Preset("v3-layer"), 16);
  ASSERT_TRUE(eight.ok() && sixteen.ok());
  const ShardNeeds fp8 = ShardNeedsOf(LinearKernel::kFp8);
  EXPECT_EQ(eight->heads().of(3), (ShardRange{48, 64}));
  EXPECT_EQ(eight->queries().of(7), (ShardRange{112 * 192, 128 * 192}));
  EXPECT_EQ(eight->attended().of(1), (ShardRange{2048, 4096}));
  EXPECT_EQ(eight->SplitOf(R::kO, 7168, fp8).of(1), (ShardRange{896, 1792}));
  EXPECT_EQ(eight->SplitOf(R::kDenseGate, 18432, fp8).of(7), (ShardRange{16128, 18432}));
  EXPECT_EQ(eight->SplitOf(R::kSharedGate, 2048, fp8).of(0), (ShardRange{0, 256}));
  // 56 blocks of 128 over 16 ranks: three or four each.
  const Split o = sixteen->SplitOf(R::kO, 7168, fp8);
  EXPECT_EQ(o.of(0), (ShardRange{0, 384}));
  EXPECT_EQ(o.of(1), (ShardRange{384, 896}));
  EXPECT_EQ(o.part_max(), 512);
  // The vocabulary is 1010 blocks.
  EXPECT_EQ(sixteen->SplitOf(R::kLmHead, 129280, fp8).of(15), (ShardRange{946 * 128, 129280}));
}

TEST(ShardPlanTest, CutsThroughBlocksAreWidened) {
  // Heads of 192 outputs and scales of 128: the second of 16 heads begins in the middle of a block.
  EXPECT_EQ(HeldRange({192, 384}, 128, 3072), (ShardRange{128, 384}));
  EXPECT_EQ(HeldRange({2880, 3072}, 128, 3072), (ShardRange{2816, 3072}));
  EXPECT_EQ(HeldRange({512, 576}, 128, 576), (ShardRange{512, 576}));  // a short last block
  EXPECT_EQ(HeldRange({64, 64}, 128, 576), (ShardRange{64, 64}));      // nothing needs nothing
}

TEST(ShardPlanTest, FewOutputsAreCutFiner) {
  EXPECT_EQ(SplitOutputs(256, 128, 4).of(1), (ShardRange{64, 128}));
  EXPECT_EQ(SplitOutputs(10, 128, 4).of(1), (ShardRange{2, 4}));  // five pairs
  EXPECT_EQ(SplitOutputs(10, 128, 4).part_max(), 4);
  EXPECT_EQ(SplitOutputs(10944, 64, 2).of(0), (ShardRange{0, 85 * 64}));    // 171 tiles of 64
  EXPECT_EQ(SplitOutputs(256, 128, 4, 128).of(3), (ShardRange{128, 256}));  // but not a block
  EXPECT_EQ(SplitOutputs(256, 128, 4, 128).of(2), (ShardRange{128, 128}));
  const Split two = SplitOutputs(2, 1, 4);  // fewer outputs than ranks: some have none
  EXPECT_EQ(two.part_max(), 1);
  ExpectCoversOnce(two, 2);
}

// DeepSeek-V2-Lite's FFNs in fp8, whose sizes are no multiples of 128 times the ranks: 85.5 blocks
// for dense layers, 22 for shared experts.
TEST(ShardPlanTest, V2LiteInFp8BeginsWithBlocks) {
  const ModelConfig c = Preset("v2-lite");
  const ShardNeeds fp8 = ShardNeedsOf(LinearKernel::kFp8);
  const ShardPlan four = ShardPlan::Make(c, 4).value(), eight = ShardPlan::Make(c, 8).value();
  EXPECT_EQ(four.SplitOf(R::kDenseGate, 10944, fp8),
            Split({{0, 2688}, {2688, 5504}, {5504, 8192}, {8192, 10944}}));
  EXPECT_EQ(four.SplitOf(R::kSharedGate, 2816, fp8),
            Split({{0, 640}, {640, 1408}, {1408, 2048}, {2048, 2816}}));
  for (const ShardPlan* plan : {&four, &eight}) {
    for (const Layer& layer : LayersOf(c)) {
      const Split split = plan->SplitOf(layer.role, layer.outputs, fp8);
      for (int r = 0; r < plan->ranks(); ++r) EXPECT_EQ(split.of(r).begin % 128, 0);
    }
  }
}

TEST(ShardPlanTest, RefusesWhatDoesNotDivide) {
  const auto three = ShardPlan::Make(Preset("v3-layer"), 3);
  EXPECT_EQ(three.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(std::string(three.status().message()),
            "attention is shared out by whole heads: expected a number of ranks that divides 128 "
            "heads, found 3 ranks");
  EXPECT_EQ(ShardPlan::Make(Preset("v3-layer"), 0).status().code(),
            absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ShardPlan::Make(Preset("v3-layer"), 128).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ShardPlanTest, GateAndUpAreCutAlike) {
  const ShardNeeds both =
      Both(ShardNeedsOf(LinearKernel::kFp8), ShardNeedsOf(LinearKernel::kMarlin4));
  EXPECT_EQ(both.multiple, 128);
  EXPECT_EQ(both.block, 128);
}

}  // namespace
}  // namespace tandem::gpu_worker
