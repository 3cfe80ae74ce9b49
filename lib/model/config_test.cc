#include "lib/model/config.h"

#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/model/config_fields.h"
#include "nlohmann/json.hpp"

namespace tandem {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string ReadFile(const std::string& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

std::string SourceDir() {
  const char* dir = std::getenv("TANDEM_SOURCE_DIR");
  return dir != nullptr ? dir : ".";
}

std::string PublishedConfigPath(const std::string& name) {
  const char* data = std::getenv("TANDEM_DATA");
  const std::string root = data != nullptr ? data : SourceDir() + "/../shared/data";
  return root + "/configs/" + name;
}

json SmallConfig(const std::string& family) {
  return json::parse(ReadFile(SourceDir() + "/tests/model/configs/" + family + "_small.json"));
}

absl::StatusOr<ModelConfig> Parse(const json& config) {
  return ParseHfConfig(config.dump(), "config.json");
}

// The published file, or the test is skipped with its path.
#define PUBLISHED_CONFIG(config, name)                                            \
  const std::string path = PublishedConfigPath(name);                             \
  if (!std::filesystem::exists(path)) GTEST_SKIP() << "no " << path;              \
  const absl::StatusOr<ModelConfig> parsed = ParseHfConfig(ReadFile(path), path); \
  ASSERT_TRUE(parsed.ok()) << parsed.status();                                    \
  const ModelConfig& config = *parsed

void ExpectDeepSeekV3(const ModelConfig& c) {
  EXPECT_EQ(c.model_type, "deepseek_v3");
  EXPECT_EQ(c.num_hidden_layers, 61);
  EXPECT_EQ(c.first_k_dense_replace, 3);
  EXPECT_EQ(c.hidden_size, 7168);
  EXPECT_EQ(c.intermediate_size, 18432);
  EXPECT_EQ(c.moe_intermediate_size, 2048);
  EXPECT_EQ(c.num_attention_heads, 128);
  EXPECT_EQ(c.n_routed_experts, 256);
  EXPECT_EQ(c.n_shared_experts, 1);
  EXPECT_EQ(c.num_experts_per_tok, 8);
  EXPECT_EQ(c.n_group, 8);
  EXPECT_EQ(c.topk_group, 4);
  EXPECT_EQ(c.scoring_func, ScoringFunc::kSigmoid);
  EXPECT_EQ(c.topk_method, TopkMethod::kNoAuxTc);
  EXPECT_TRUE(c.norm_topk_prob);
  EXPECT_EQ(c.routed_scaling_factor, 2.5);
  EXPECT_EQ(c.q_lora_rank, 1536);
  EXPECT_EQ(c.kv_lora_rank, 512);
  EXPECT_EQ(c.qk_head_dim(), 192);
  EXPECT_EQ(c.v_head_dim, 128);
  EXPECT_EQ(c.vocab_size, 129280);
  EXPECT_EQ(c.num_nextn_predict_layers, 1);
  EXPECT_EQ(c.fp8_block_rows, 128);
  EXPECT_EQ(c.fp8_block_cols, 128);
  EXPECT_EQ(c.bos_token_id, 0);
  EXPECT_THAT(c.eos_token_ids, ElementsAre(1));
  EXPECT_TRUE(c.yarn.enabled);
  EXPECT_EQ(c.yarn.factor, 40.0);
  EXPECT_EQ(c.yarn.original_max_position_embeddings, 4096);
  EXPECT_FALSE(c.IsMoeLayer(2));
  EXPECT_TRUE(c.IsMoeLayer(3));
  // (0.1 ln 40 + 1)^2 / sqrt(192), worked out by hand.
  EXPECT_NEAR(c.SoftmaxScale(), 0.135233778860880, 1e-12);
  EXPECT_EQ(c.RopeMagnitude(), 1.0);
}

TEST(HfConfig, DeepSeekV3AndR1) {
  {
    PUBLISHED_CONFIG(config, "deepseek-ai--DeepSeek-V3_config.json");
    ExpectDeepSeekV3(config);
  }
  PUBLISHED_CONFIG(config, "deepseek-ai--DeepSeek-R1_config.json");
  ExpectDeepSeekV3(config);
}

TEST(HfConfig, DeepSeekV2Lite) {
  PUBLISHED_CONFIG(c, "deepseek-ai--DeepSeek-V2-Lite_config.json");
  EXPECT_EQ(c.model_type, "deepseek_v2");
  EXPECT_EQ(c.num_hidden_layers, 27);
  EXPECT_EQ(c.first_k_dense_replace, 1);
  EXPECT_EQ(c.q_lora_rank, 0);
  EXPECT_EQ(c.n_routed_experts, 64);
  EXPECT_EQ(c.n_shared_experts, 2);
  EXPECT_EQ(c.moe_intermediate_size, 1408);
  EXPECT_EQ(c.scoring_func, ScoringFunc::kSoftmax);
  EXPECT_EQ(c.topk_method, TopkMethod::kGreedy);
  EXPECT_FALSE(c.norm_topk_prob);
  EXPECT_EQ(c.yarn.mscale, 0.707);
  EXPECT_EQ(c.yarn.mscale_all_dim, 0.707);
  EXPECT_EQ(c.num_nextn_predict_layers, 0);
  EXPECT_EQ(c.fp8_block_rows, 0);
  EXPECT_EQ(c.bos_token_id, 100000);
}

TEST(HfConfig, KimiK2) {
  PUBLISHED_CONFIG(c, "moonshotai--Kimi-K2-Instruct_config.json");
  EXPECT_EQ(c.model_type, "kimi_k2");
  EXPECT_EQ(c.first_k_dense_replace, 1);
  EXPECT_EQ(c.num_attention_heads, 64);
  EXPECT_EQ(c.n_routed_experts, 384);
  EXPECT_EQ(c.n_group, 1);
  EXPECT_EQ(c.routed_scaling_factor, 2.827);
  EXPECT_EQ(c.rope_theta, 50000.0);
  EXPECT_EQ(c.yarn.beta_fast, 1.0);
  EXPECT_EQ(c.max_position_embeddings, 131072);
}

TEST(HfConfig, SmallFamiliesParse) {
  for (const char* family :
       {"deepseek_v3", "deepseek_v2_lite", "deepseek_v2", "kimi_k2", "moonlight"}) {
    const absl::StatusOr<ModelConfig> config = Parse(SmallConfig(family));
    EXPECT_TRUE(config.ok()) << family << ": " << config.status();
  }
  EXPECT_THAT(Parse(SmallConfig("kimi_k2"))->eos_token_ids, ElementsAre(511, 509));
  EXPECT_FALSE(Parse(SmallConfig("moonlight"))->yarn.enabled);
}

// transformers 5 moves rope_theta and rope_scaling into rope_parameters and leaves out what its
// class does not read.
TEST(HfConfig, ReadsWhatTransformers5Writes) {
  const ModelConfig old = *Parse(SmallConfig("deepseek_v3"));
  json config = SmallConfig("deepseek_v3");
  json rope = config["rope_scaling"];
  rope["rope_type"] = "yarn";
  rope["rope_theta"] = config["rope_theta"];
  config["rope_parameters"] = rope;
  for (const char* key : {"rope_scaling", "rope_theta", "scoring_func", "topk_method"})
    config.erase(key);
  config["rope_interleave"] = true;
  const absl::StatusOr<ModelConfig> fresh = Parse(config);
  ASSERT_TRUE(fresh.ok()) << fresh.status();
  EXPECT_EQ(CanonicalConfigText(*fresh), CanonicalConfigText(old));
  config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 12345.0}};
  EXPECT_EQ(Parse(config)->rope_theta, 12345.0);
  EXPECT_FALSE(Parse(config)->yarn.enabled);
}

TEST(HfConfig, RopeInterleaveDecidesTheLayout) {
  json config = SmallConfig("deepseek_v3");
  EXPECT_EQ(Parse(config)->rope_layout, RopeLayout::kInterleaved);
  config["rope_interleave"] = false;
  EXPECT_EQ(Parse(config)->rope_layout, RopeLayout::kSplitHalves);
  json v2 = SmallConfig("deepseek_v2");
  v2["rope_interleave"] = false;
  EXPECT_EQ(Parse(v2).status().code(), absl::StatusCode::kUnimplemented);
}

struct Refusal {
  const char* key;
  json value;  // discarded: the key is erased
  absl::StatusCode code;
  const char* message;
};

TEST(HfConfig, RefusesByName) {
  const auto unimplemented = absl::StatusCode::kUnimplemented;
  const auto invalid = absl::StatusCode::kInvalidArgument;
  const json gone(json::value_t::discarded);
  const std::vector<Refusal> refusals = {
      {"model_type", "llama", unimplemented, "model_type \"llama\" is not supported"},
      {"hidden_act", "gelu", unimplemented, "hidden_act \"gelu\" is not supported"},
      {"attention_bias", true, unimplemented, "attention_bias true is not supported"},
      {"scoring_func", "softmax", unimplemented, "scoring_func \"softmax\""},
      {"topk_method", "greedy", unimplemented, "topk_method \"greedy\""},
      {"rope_scaling",
       {{"type", "linear"}, {"factor", 2}},
       unimplemented,
       "rope_scaling.type \"linear\""},
      {"rope_scaling",
       {{"type", "yarn"}, {"rope_type", "dynamic"}},
       invalid,
       "equal to type \"yarn\""},
      {"rope_scaling",
       {{"type", "yarn"}},
       invalid,
       "rope_scaling.factor must be a number, found no such field"},
      {"rope_scaling", "yarn", invalid, "rope_scaling must be an object or null"},
      {"quantization_config", {{"quant_method", "awq"}}, unimplemented, "quant_method \"awq\""},
      {"quantization_config", {{"quant_method", "fp8"}}, invalid, "weight_block_size"},
      {"quantization_config",
       {{"quant_method", "fp8"}, {"weight_block_size", {128, 0}}},
       invalid,
       "[128,0]"},
      {"vocab_size", gone, invalid,
       "vocab_size must be an integer in [1, 16777216], found no such field"},
      {"hidden_size", -5, invalid, "hidden_size must be an integer in [1, 131072], found -5"},
      {"hidden_size", 1e300, invalid, "found 1e+300"},
      {"hidden_size", 18446744073709551615u, invalid, "found 18446744073709551615"},
      {"hidden_size", "256", invalid, "found \"256\""},
      {"num_hidden_layers", 100000, invalid, "num_hidden_layers"},
      {"num_key_value_heads", 2, invalid, "num_attention_heads = 4"},
      {"q_lora_rank", gone, invalid, "q_lora_rank must be a positive integer or null"},
      {"n_group", 3, invalid, "n_group must divide n_routed_experts = 16, found 3"},
      {"n_group", 16, invalid, "groups of at least 2 experts"},
      {"topk_group", 5, invalid, "topk_group must be at most n_group = 4, found 5"},
      {"num_experts_per_tok", 9, invalid,
       "at most the 8 experts of topk_group = 2 groups, found 9"},
      {"num_experts_per_tok", 0, invalid, "num_experts_per_tok"},
      {"qk_rope_head_dim", 31, invalid, "qk_rope_head_dim must be even, found 31"},
      {"first_k_dense_replace", 5, invalid,
       "first_k_dense_replace must be at most num_hidden_layers = 4"},
      {"rms_norm_eps", 0, invalid, "rms_norm_eps"},
      {"rope_theta", -1, invalid, "rope_theta"},
      {"eos_token_id", 512, invalid, "eos_token_id must lie in [0, vocab_size = 512), found 512"},
      {"eos_token_id", {1, "x"}, invalid, "eos_token_id"},
      {"bos_token_id", 512, invalid, "bos_token_id"},
  };
  for (const Refusal& refusal : refusals) {
    json config = SmallConfig("deepseek_v3");
    if (refusal.value.is_discarded()) {
      config.erase(refusal.key);
    } else {
      config[refusal.key] = refusal.value;
    }
    const absl::StatusOr<ModelConfig> parsed = Parse(config);
    ASSERT_FALSE(parsed.ok()) << refusal.key << " " << refusal.message;
    EXPECT_EQ(parsed.status().code(), refusal.code) << parsed.status();
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(refusal.message));
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("config.json"));
    EXPECT_EQ(std::string(parsed.status().message()).find('\n'), std::string::npos);
  }
}

TEST(HfConfig, RefusesWhatIsNotAnObject) {
  for (const char* text : {"", "{", "[1]", "null", "{\"a\":1e999}", "\xff"})
    EXPECT_EQ(ParseHfConfig(text, "f").status().code(), absl::StatusCode::kInvalidArgument) << text;
}

// Keys as llama.cpp's converter writes them for DeepSeek-V3 (MLA-split file).
Metadata V3Metadata() {
  Metadata m;
  m.Set("general.architecture", std::string("deepseek2"));
  m.Set("general.name", std::string("V3"));
  const std::vector<std::pair<const char*, uint64_t>> ints = {
      {"block_count", 61},
      {"context_length", 163840},
      {"embedding_length", 7168},
      {"feed_forward_length", 18432},
      {"attention.head_count", 128},
      {"attention.head_count_kv", 1},
      {"attention.q_lora_rank", 1536},
      {"attention.kv_lora_rank", 512},
      {"attention.key_length", 576},
      {"attention.value_length", 512},
      {"attention.key_length_mla", 192},
      {"attention.value_length_mla", 128},
      {"leading_dense_block_count", 3},
      {"expert_count", 256},
      {"expert_used_count", 8},
      {"expert_shared_count", 1},
      {"expert_feed_forward_length", 2048},
      {"expert_gating_func", 2},
      {"expert_group_count", 8},
      {"expert_group_used_count", 4},
      {"rope.dimension_count", 64},
      {"rope.scaling.original_context_length", 4096},
      {"vocab_size", 129280}};
  for (const auto& [key, value] : ints) m.Set(std::string("deepseek2.") + key, value);
  m.Set("deepseek2.expert_weights_norm", true);
  const std::vector<std::pair<const char*, float>> floats = {
      {"expert_weights_scale", 2.5f},
      {"attention.layer_norm_rms_epsilon", 1e-6f},
      {"rope.freq_base", 10000.0f},
      {"rope.scaling.factor", 40.0f},
      {"rope.scaling.yarn_log_multiplier", 0.1f}};
  for (const auto& [key, value] : floats)
    m.Set(std::string("deepseek2.") + key, static_cast<double>(value));
  m.Set("deepseek2.rope.scaling.type", std::string("yarn"));
  m.Set("tokenizer.ggml.bos_token_id", uint64_t{0});
  m.Set("tokenizer.ggml.eos_token_id", uint64_t{1});
  return m;
}

// Metadata has no erase: a copy without some keys.
Metadata Without(const Metadata& all, const std::vector<std::string>& keys) {
  Metadata rest;
  for (const std::string& key : all.SortedKeys()) {
    bool dropped = false;
    for (const std::string& gone : keys) dropped = dropped || key == "deepseek2." + gone;
    if (!dropped) rest.Set(key, *all.Find(key));
  }
  return rest;
}

absl::StatusOr<ModelConfig> ParseV3(const Metadata& metadata,
                                    OldFileRouting routing = OldFileRouting::kAssume) {
  return ParseGgufConfig(metadata, true, routing, "v3.gguf");
}

TEST(GgufConfig, DeepSeekV3EqualsTheHuggingFaceConfig) {
  const absl::StatusOr<ModelConfig> gguf = ParseV3(V3Metadata());
  ASSERT_TRUE(gguf.ok()) << gguf.status();
  EXPECT_TRUE(gguf->assumptions.empty());
  PUBLISHED_CONFIG(hf, "deepseek-ai--DeepSeek-V3_config.json");
  ModelConfig expected = hf;
  expected.num_nextn_predict_layers = expected.fp8_block_rows = expected.fp8_block_cols = 0;
  EXPECT_EQ(CanonicalConfigText(*gguf), CanonicalConfigText(expected));
}

TEST(GgufConfig, DecimalsAreReadAsMeant) {
  Metadata m = V3Metadata();
  m.Set("deepseek2.rope.scaling.yarn_log_multiplier", static_cast<double>(0.0707f));
  const ModelConfig c = *ParseV3(m);
  EXPECT_EQ(c.rms_norm_eps, 1e-6);
  EXPECT_EQ(c.yarn.mscale_all_dim, 0.707);
  EXPECT_EQ(c.yarn.mscale, 0.707);
}

TEST(GgufConfig, OldFileWithFusedKvB) {
  Metadata m = Without(V3Metadata(), {"attention.key_length_mla", "attention.value_length_mla"});
  m.Set("deepseek2.attention.key_length", uint64_t{192});
  m.Set("deepseek2.attention.value_length", uint64_t{128});
  m.Set("deepseek2.attention.head_count_kv", uint64_t{128});
  EXPECT_EQ(CanonicalConfigText(*ParseV3(m)), CanonicalConfigText(*ParseV3(V3Metadata())));
}

TEST(GgufConfig, OldV3FileAssumesV3RoutingAndSaysSo) {
  const Metadata m = Without(V3Metadata(), {"expert_gating_func", "expert_group_count",
                                            "expert_group_used_count", "expert_weights_norm"});
  const ModelConfig c = *ParseV3(m);
  EXPECT_EQ(CanonicalConfigText(c), CanonicalConfigText(*ParseV3(V3Metadata())));
  ASSERT_EQ(c.assumptions.size(), 3u);
  EXPECT_THAT(c.assumptions[0], HasSubstr("sigmoid"));
  EXPECT_THAT(c.assumptions[1], HasSubstr("8 groups of which 4"));
  EXPECT_THAT(c.assumptions[2], HasSubstr("normalised"));
  const ModelConfig as_file = *ParseV3(m, OldFileRouting::kAsFile);
  EXPECT_EQ(as_file.scoring_func, ScoringFunc::kSoftmax);
  EXPECT_EQ(as_file.n_group, 1);
  EXPECT_FALSE(as_file.norm_topk_prob);
  EXPECT_TRUE(as_file.assumptions.empty());
}

TEST(GgufConfig, OldV2FileAssumesGroups) {
  Metadata m = Without(V3Metadata(), {"expert_gating_func", "expert_group_count",
                                      "expert_group_used_count", "expert_weights_norm"});
  m.Set("deepseek2.expert_count", uint64_t{160});
  m.Set("deepseek2.expert_used_count", uint64_t{6});
  const auto parse = [&](OldFileRouting routing) {
    return *ParseGgufConfig(m, false, routing, "v2.gguf");
  };
  const ModelConfig c = parse(OldFileRouting::kAssume);
  EXPECT_EQ(c.model_type, "deepseek_v2");
  EXPECT_EQ(c.n_group, 8);
  EXPECT_EQ(c.topk_group, 3);
  EXPECT_EQ(c.scoring_func, ScoringFunc::kSoftmax);
  EXPECT_EQ(c.topk_method, TopkMethod::kGroupLimitedGreedy);
  EXPECT_EQ(c.assumptions.size(), 1u);
  EXPECT_EQ(parse(OldFileRouting::kAsFile).topk_method, TopkMethod::kGreedy);
}

TEST(GgufConfig, MtpLayersAreLeftOut) {
  Metadata m = V3Metadata();
  m.Set("deepseek2.block_count", uint64_t{62});
  m.Set("deepseek2.nextn_predict_layers", uint64_t{1});
  EXPECT_EQ(ParseV3(m)->num_hidden_layers, 61);
  EXPECT_EQ(ParseV3(m)->num_nextn_predict_layers, 1);
  m.Set("deepseek2.block_count", uint64_t{1});
  EXPECT_THAT(std::string(ParseV3(m).status().message()),
              HasSubstr("nextn_predict_layers must be below block_count"));
}

TEST(GgufConfig, FeedForwardLengthPerLayer) {
  Metadata m = V3Metadata();
  m.Set("deepseek2.feed_forward_length", std::vector<int64_t>{18432, 18432, 18432, 0});
  EXPECT_EQ(ParseV3(m)->intermediate_size, 18432);
  m.Set("deepseek2.feed_forward_length", std::vector<int64_t>{18432, 9216});
  EXPECT_EQ(ParseV3(m).status().code(), absl::StatusCode::kUnimplemented);
  m.Set("deepseek2.feed_forward_length", std::vector<int64_t>{0, 0});
  EXPECT_THAT(std::string(ParseV3(m).status().message()), HasSubstr("intermediate_size"));
}

TEST(GgufConfig, EveryKindOfEndIsAStop) {
  Metadata m = V3Metadata();
  m.Set("tokenizer.ggml.eot_token_id", uint64_t{7});
  m.Set("tokenizer.ggml.eom_token_id", uint64_t{1});
  EXPECT_THAT(ParseV3(m)->eos_token_ids, ElementsAre(1, 7));
}

TEST(GgufConfig, RefusesInOneSentence) {
  const auto message = [](const std::string& key, MetadataValue value) {
    Metadata m = V3Metadata();
    m.Set(key, std::move(value));
    const absl::StatusOr<ModelConfig> parsed = ParseV3(m);
    EXPECT_FALSE(parsed.ok()) << key;
    const std::string text(parsed.status().message());
    EXPECT_THAT(text, HasSubstr("v3.gguf: "));
    EXPECT_EQ(text.find('\n'), std::string::npos);
    return text;
  };
  EXPECT_THAT(message("general.architecture", std::string("llama")), HasSubstr("\"llama\""));
  EXPECT_THAT(message("deepseek2.block_count", uint64_t{1} << 63), HasSubstr("block_count"));
  EXPECT_THAT(message("deepseek2.block_count", int64_t{-1}), HasSubstr("found -1"));
  EXPECT_THAT(message("deepseek2.embedding_length", std::string("x")),
              HasSubstr("embedding_length"));
  EXPECT_THAT(message("deepseek2.expert_group_count", uint64_t{7}),
              HasSubstr("n_group must divide"));
  EXPECT_THAT(message("deepseek2.expert_used_count", uint64_t{300}), HasSubstr("found 300"));
  EXPECT_THAT(message("deepseek2.expert_used_count", uint64_t{200}),
              HasSubstr("at most the 128 experts"));
  EXPECT_THAT(message("deepseek2.expert_gating_func", uint64_t{3}),
              HasSubstr("expert_gating_func 3"));
  EXPECT_THAT(message("deepseek2.rope.scaling.type", std::string("linear")),
              HasSubstr("\"linear\""));
  EXPECT_THAT(message("deepseek2.rope.dimension_count", uint64_t{192}),
              HasSubstr("key_length_mla must be above"));
  EXPECT_THAT(message("deepseek2.attention.key_length", uint64_t{192}),
              HasSubstr("= 576, found 192"));
  EXPECT_THAT(message("deepseek2.attention.layer_norm_rms_epsilon", std::nan("")),
              HasSubstr("rms_norm_eps"));
  EXPECT_THAT(message("tokenizer.ggml.eos_token_id", uint64_t{129280}), HasSubstr("eos_token_id"));
}

TEST(GgufConfig, MissingKeysAreNamed) {
  for (const char* key :
       {"block_count", "context_length", "embedding_length", "feed_forward_length",
        "attention.head_count", "attention.kv_lora_rank", "attention.layer_norm_rms_epsilon",
        "rope.dimension_count", "attention.value_length_mla", "rope.scaling.factor"}) {
    const absl::StatusOr<ModelConfig> parsed = ParseV3(Without(V3Metadata(), {key}));
    ASSERT_FALSE(parsed.ok()) << key;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(key));
  }
  const absl::StatusOr<ModelConfig> no_vocabulary = ParseV3(Without(V3Metadata(), {"vocab_size"}));
  EXPECT_THAT(std::string(no_vocabulary.status().message()), HasSubstr("tokenizer.ggml.tokens"));
}

}  // namespace
}  // namespace tandem
