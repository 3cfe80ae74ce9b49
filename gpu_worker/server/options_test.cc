#include "gpu_worker/server/options.h"

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "gpu_worker/engine/half_batches.h"
#include "gtest/gtest.h"
#include "lib/base/log.h"

namespace tandem::gpu_worker {
namespace {

constexpr char kYaml[] = R"(name: r
linear:
  default: {format: fp8}
  rules:
    - {match: lm_head, format: bf16, kernel: onednn}
    - {match: o_proj, format: marlin4, group: 64}
attention: reference
)";

ModelConfig Network() {
  ModelConfig c;
  c.vocab_size = 256;
  c.hidden_size = 128;
  c.num_hidden_layers = 1;
  c.first_k_dense_replace = 1;
  c.intermediate_size = 256;
  c.num_attention_heads = 2;
  c.kv_lora_rank = 64;
  c.qk_nope_head_dim = 32;
  c.qk_rope_head_dim = 16;
  c.v_head_dim = 32;
  return c;
}

// What a worker started with `flags` makes of the recipe.
struct Started {
  WorkerOptions options;
  std::string formats;
};

Started Start(const std::vector<std::string>& flags, const std::optional<Recipe>& recipe) {
  base::InitLogging("test", base::LogLevel::kError, false);
  CLI::App app("", "test");
  Started out;
  AddWorkerOptions(app, &out.options);
  std::vector<std::string> words = {"--coordinator=a:1", "--model=m"};
  words.insert(words.end(), flags.begin(), flags.end());
  std::reverse(words.begin(), words.end());  // as CLI11 wants them
  app.parse(words);
  const GivenFlags given = GivenFlagsOf(app);
  if (recipe.has_value()) ApplyRecipe(*recipe, given, &out.options);
  const auto linear = LinearLayers(out.options, recipe, given, Network());
  EXPECT_TRUE(linear.ok()) << linear.status();
  out.formats = FormatsText(*linear);
  return out;
}

TEST(WorkerOptionsTest, TheRecipeDecidesWhatNoFlagDoes) {
  const Recipe recipe = *ParseRecipe(kYaml, "r.yaml");
  const Started started = Start({}, recipe);
  EXPECT_EQ(started.options.attention, "reference");
  EXPECT_EQ(started.options.precision, "bf16");
  EXPECT_EQ(started.formats, "fp8 (5), bf16 by onednn (1), marlin4 g64 (1)");
}

TEST(WorkerOptionsTest, FlagsWinOverTheRecipe) {
  const Recipe recipe = *ParseRecipe(kYaml, "r.yaml");
  EXPECT_EQ(Start({"--attention=flash"}, recipe).options.attention, "flash");
  EXPECT_EQ(Start({"--precision=f32", "--linear=native"}, recipe).options.precision, "f32");
  EXPECT_EQ(Start({"--linear=native"}, recipe).formats, "bf16 (7)");
  EXPECT_EQ(Start({"--linear=marlin8", "--marlin-group=64"}, recipe).formats, "marlin8 g64 (7)");
}

TEST(WorkerOptionsTest, WithoutARecipeOneFormatIsForAll) {
  EXPECT_EQ(Start({}, std::nullopt).formats, "bf16 (7)");
  EXPECT_EQ(Start({"--linear=onednn"}, std::nullopt).formats, "bf16 by onednn (7)");
  EXPECT_EQ(Start({"--linear=stored"}, std::nullopt).formats, "stored (7)");
  EXPECT_EQ(Start({"--linear=marlin4"}, std::nullopt).formats, "marlin4 g128 (7)");
}

TEST(WorkerOptionsTest, KernelsAreTheCudaBackends) {
  WorkerOptions options;
  options.kernels = "hopper";
  EXPECT_EQ(CheckWorkerOptions(options).code(), absl::StatusCode::kInvalidArgument);
  options.backend = "cuda";
  EXPECT_TRUE(CheckWorkerOptions(options).ok());
}

TEST(WorkerOptionsTest, EachRankHasAKvCache) {
  // A context far beyond any memory, so that memory decides; what is free may change by a tenth
  // meanwhile.
  ModelConfig config;
  config.num_hidden_layers = 1;
  config.kv_lora_rank = 512;
  config.max_position_embeddings = int64_t{1} << 40;
  WorkerOptions options;
  const auto one = static_cast<double>(KvPages(options, config, Precision::kBf16));
  options.ranks = 4;
  const auto four = static_cast<double>(KvPages(options, config, Precision::kBf16));
  EXPECT_NEAR(four * 4 / one, 1, 0.1);
  options.kv_tokens = 640;
  EXPECT_EQ(KvPages(options, config, Precision::kBf16), 10);
}

TEST(WorkerOptionsTest, HalfBatchesAreANumberOrAWord) {
  ModelConfig config;
  config.n_routed_experts = 64;
  config.num_experts_per_tok = 8;
  BackendInfo device, host;
  device.asynchronous = true;
  device.rows_max = 512;
  const auto rows = [&](const std::string& flag, const BackendInfo& backend) {
    return HalfRowsMin(Start({"--half-batches=" + flag}, std::nullopt).options, config, backend);
  };
  EXPECT_EQ(rows("off", device), 0);
  EXPECT_EQ(rows("17", host), 17);
  EXPECT_EQ(rows("auto", host), 0);
  EXPECT_EQ(rows("auto", device), 512);
  for (const char* bad : {"1", "0", "-2", "on", "2.5", ""}) {
    EXPECT_THROW(rows(bad, host), CLI::ParseError) << bad;
  }
}

TEST(WorkerOptionsTest, EveryFormatOfRecipesIsOneOfTheBackend) {
  const auto kernel = [](WeightFormat format, const char* name, int64_t group = 0) {
    return BackendFormat({format, group, name}).kernel;
  };
  EXPECT_EQ(kernel(WeightFormat::kBf16, "native"), LinearKernel::kNative);
  EXPECT_EQ(kernel(WeightFormat::kBf16, "onednn"), LinearKernel::kOneDnn);
  EXPECT_EQ(kernel(WeightFormat::kStored, "stored"), LinearKernel::kStored);
  EXPECT_EQ(kernel(WeightFormat::kFp8, "fp8"), LinearKernel::kFp8);
  EXPECT_EQ(kernel(WeightFormat::kMarlin8, "marlin", 64), LinearKernel::kMarlin8);
  EXPECT_EQ(kernel(WeightFormat::kMarlin4, "marlin", 128), LinearKernel::kMarlin4);
  EXPECT_EQ(BackendFormat({WeightFormat::kMarlin4, 64, "marlin"}).group, 64);
}

}  // namespace
}  // namespace tandem::gpu_worker
