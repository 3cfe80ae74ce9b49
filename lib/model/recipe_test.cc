#include "lib/model/recipe.h"

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "lib/model/recipe_linear.h"
#include "lib/model/recipe_sources.h"

namespace tandem {
namespace {

namespace fs = std::filesystem;
using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kFull[] = R"(name: row
description: "A row."
sources:
  dense: ${model}
  experts: "${model}/gguf/*Q4_K_M*"
linear:
  default: {format: bf16, kernel: onednn}
  rules:
    - {match: 'layers\.0\.', format: fp8}
    - match: '^model\.layers\.'
      format: marlin4
      group: 64
    - {match: lm_head, format: marlin8}
attention: reference
precision: bf16
cluster: {cpu_workers: 3, kv_tokens: 1000}
hot_experts: lists/hot.json
table:
  dataset: mmlu_pro
  row: 2
  model: M
  cpu_weight_format: a
  cpu_kernel: b
  gpu_weight_format: c
  gemm_kernel: d
  mla_kernel: e
  siliconflow: "57.70"
  ktrans_point: tbd
)";

// The message of a recipe that must not parse.
std::string Refusal(const std::string& yaml) {
  const absl::StatusOr<Recipe> recipe = ParseRecipe(yaml, "r.yaml");
  EXPECT_FALSE(recipe.ok()) << yaml;
  EXPECT_EQ(recipe.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(recipe.status().message());
}

TEST(RecipeTest, ReadsEveryField) {
  const absl::StatusOr<Recipe> recipe = ParseRecipe(kFull, "folder/r.yaml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->name, "row");
  EXPECT_EQ(recipe->folder, "folder");
  EXPECT_EQ(recipe->dense.pattern, "${model}");
  EXPECT_EQ(recipe->experts.pattern, "${model}/gguf/*Q4_K_M*");
  EXPECT_EQ(recipe->experts.line, 5);
  EXPECT_EQ(recipe->linear_default, (LinearChoice{WeightFormat::kBf16, 0, "onednn"}));
  ASSERT_EQ(recipe->linear_rules.size(), 3u);
  EXPECT_EQ(recipe->linear_rules[0].choice, (LinearChoice{WeightFormat::kFp8, 0, "fp8"}));
  EXPECT_EQ(recipe->linear_rules[1].choice, (LinearChoice{WeightFormat::kMarlin4, 64, "marlin"}));
  EXPECT_EQ(recipe->linear_rules[1].line, 10);
  EXPECT_EQ(recipe->linear_rules[2].choice, (LinearChoice{WeightFormat::kMarlin8, 128, "marlin"}));
  EXPECT_EQ(recipe->attention, "reference");
  EXPECT_EQ(recipe->hot_experts, "lists/hot.json");
  EXPECT_EQ(HotExpertsPath(*recipe), "folder/lists/hot.json");
  const std::vector<std::pair<std::string, int64_t>> cluster = {{"cpu_workers", 3},
                                                                {"kv_tokens", 1000}};
  EXPECT_EQ(recipe->cluster, cluster);
  ASSERT_TRUE(recipe->table.has_value());
  EXPECT_EQ(recipe->table->row, 2);
  EXPECT_EQ(recipe->table->siliconflow, "57.70") << "printed cells are text";
  EXPECT_EQ(recipe->digest.size(), 64u);
}

TEST(RecipeTest, WhatIsLeftOutIsAsWithoutARecipe) {
  const absl::StatusOr<Recipe> recipe = ParseRecipe("name: x", "r.yaml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  EXPECT_EQ(recipe->dense.pattern, "${model}");
  EXPECT_EQ(recipe->experts.pattern, "${model}");
  EXPECT_EQ(recipe->linear_default, LinearChoice());
  EXPECT_EQ(recipe->attention, "flash");
  EXPECT_FALSE(recipe->table.has_value());
}

TEST(RecipeTest, MistakesAreNamedWithTheirLine) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "r.yaml line 1: expected the recipe to be a mapping of name, "},
      {"- a", "line 1: expected the recipe to be a mapping"},
      {"name: x\nattention: fast", "line 2: the recipe.attention: expected flash or reference, "},
      {"name: x\nattentoin: flash", "line 2: unknown key 'attentoin' in the recipe, expected one"},
      {"name: x\nname: y", "line 2: the key name stands twice in the recipe"},
      {"attention: flash", "line 1: expected the key name in the recipe"},
      {"name: 'a b'", "line 1: the recipe.name: expected up to 64 letters"},
      {"name: [x]", "line 1: the recipe.name: expected a word, found a list"},
      {"name: x\nprecision: f16", "line 2: the recipe.precision: expected bf16 or f32, found f16"},
      {"name: x\nsources:\n  shared: a", "line 3: unknown key 'shared' in sources"},
      {"name: x\nsources:\n  dense: ${home}/a",
       "line 3: sources.dense: expected no placeholder but"},
      {"name: x\nsources:\n  dense: a/${model}", "line 3: sources.dense: expected no placeholder"},
      {"name: x\nsources:\n  dense: ${model}x", "line 3: sources.dense: expected no placeholder"},
      {"name: x\nlinear:\n  default: {format: int8}",
       "line 3: linear.default.format: expected bf16, fp8, marlin8, marlin4 or stored, found int8"},
      {"name: x\nlinear:\n  rules: {match: a}", "line 3: linear.rules: expected a list"},
      {"name: x\nlinear:\n  rules:\n    - {format: fp8}", "line 4: expected the key match in rule"},
      {"name: x\nlinear:\n  rules:\n    - {match: a, format: fp8, bits: 4}",
       "line 4: unknown key 'bits' in rule"},
      {"name: x\nlinear:\n  rules:\n    - {match: 'a(', format: fp8}",
       "line 4: rule.match: regular expression does not compile at byte 2: "},
      {"name: x\nlinear:\n  rules:\n    - {match: '', format: fp8}",
       "line 4: rule.match: expected a word, found nothing"},
      {"name: x\nlinear:\n  rules:\n    - {match: a, format: fp8, group: 64}",
       "line 4: rule.group: only marlin8 and marlin4 have groups, not fp8"},
      {"name: x\nlinear:\n  rules:\n    - {match: a, format: marlin4, group: 96}",
       "line 4: rule.group: expected 64 or 128, found 96"},
      {"name: x\nlinear:\n  rules:\n    - {match: a, format: marlin4, kernel: native}",
       "line 4: rule.kernel: expected marlin, found native"},
      {"name: x\nprecision: f32\nlinear: {default: {format: fp8}}",
       "line 2: the recipe.precision: f32 keeps every weight in f32: expected no format or kernel "
       "but bf16 by native, found fp8 by fp8"},
      {"name: x\ncluster: {cpu_workers: many}",
       "line 2: cluster.cpu_workers: expected a number from 0 to 64, found many"},
      {"name: x\ncluster: {rows_max: 0}", "line 2: cluster.rows_max: expected a number from 1"},
      {"name: x\ncluster: {workers: 2}", "line 2: unknown key 'workers' in cluster"},
      {"name: x\ntable:\n  dataset: mmlu", "line 3: expected the key row in table"},
      {"name: x\ntable:\n  dataset: math", "line 3: table.dataset: expected mmlu or mmlu_pro"},
      {"name: x\nlinear: {default: [", "line 2: "},
      {"name: \"a\x01\"", "line 1: "},
  };
  for (const auto& [yaml, expected] : cases) {
    EXPECT_THAT(Refusal(yaml), AllOf(StartsWith("r.yaml line "), HasSubstr(expected))) << yaml;
  }
  EXPECT_THAT(Refusal(std::string(kRecipeBytesMax + 1, '#')), HasSubstr("at most 65536 bytes"));
  EXPECT_EQ(LoadRecipe("/nowhere/r.yaml").status().code(), absl::StatusCode::kNotFound);
}

TEST(RecipeTest, DigestCoversWhatChangesAnswersAndNothingElse) {
  const std::string digest = ParseRecipe(kFull, "r.yaml")->digest;
  const auto changed = [&](const char* from, const char* to) {
    const std::string yaml = absl::StrReplaceAll(kFull, {{from, to}});
    EXPECT_NE(yaml, kFull) << from;
    const absl::StatusOr<Recipe> recipe = ParseRecipe(yaml, "elsewhere/s.yaml");
    EXPECT_TRUE(recipe.ok()) << recipe.status();
    return recipe->digest;
  };
  EXPECT_EQ(changed("name: row", "name: line # a remark"), digest);
  EXPECT_EQ(changed("cpu_workers: 3", "cpu_workers: 4"), digest);
  EXPECT_EQ(changed("57.70", "57.7"), digest);
  EXPECT_EQ(changed("hot_experts: lists/hot.json", "hot_experts: other.json"), digest);
  EXPECT_EQ(changed("hot_experts: lists/hot.json\n", ""), digest);
  EXPECT_NE(changed("Q4_K_M", "Q8_0"), digest);
  EXPECT_NE(changed("attention: reference", "attention: flash"), digest);
  EXPECT_NE(changed("group: 64", "group: 128"), digest);
  EXPECT_NE(changed("kernel: onednn", "kernel: native"), digest);
  EXPECT_NE(changed("match: lm_head", "match: lm_hea"), digest);
}

// Files and folders by name only; resolving does not open them.
class SourceTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = (fs::temp_directory_path() / "tandem_recipe_XXXXXX").string();
    ASSERT_NE(mkdtemp(name.data()), nullptr);
    folder_ = name;
    for (const char* file : {"m/gguf/M-Q8_0.gguf", "m/gguf/M-IQ1_S-00001-of-00002.gguf",
                             "m/gguf/M-IQ1_S-00002-of-00002.gguf", "m/gguf/q4_k_m/part.gguf",
                             "m/gguf/M-Q2_K.gguf", "m/gguf/N-Q2_K.gguf", "m/config.json",
                             "recipes/r.yaml", "a [x]/y.gguf", "beside/z.gguf"}) {
      fs::create_directories((folder_ / file).parent_path());
      std::ofstream(folder_ / file) << "x";
    }
  }
  void TearDown() override { fs::remove_all(folder_); }

  absl::StatusOr<std::string> Resolve(const std::string& pattern, const std::string& model = "m") {
    Recipe recipe;
    recipe.file = (folder_ / "recipes/r.yaml").string();
    recipe.folder = (folder_ / "recipes").string();
    return ResolveSource(recipe, {pattern, 7}, "experts", (folder_ / model).string());
  }
  std::string Found(const std::string& pattern, const std::string& model = "m") {
    const absl::StatusOr<std::string> path = Resolve(pattern, model);
    EXPECT_TRUE(path.ok()) << path.status();
    return path.ok() ? fs::path(*path).lexically_relative(folder_).string() : "";
  }
  std::string NotFound(const std::string& pattern, const std::string& model = "m") {
    const absl::StatusOr<std::string> path = Resolve(pattern, model);
    EXPECT_FALSE(path.ok()) << *path;
    return std::string(path.status().message());
  }

  fs::path folder_;
};

TEST_F(SourceTest, OneMatchIsTaken) {
  EXPECT_EQ(Found("${model}"), "m");
  EXPECT_EQ(Found("${model}/gguf/*Q8_0*.gguf"), "m/gguf/M-Q8_0.gguf");
  EXPECT_EQ(Found("${model}/GGUF/*q8_0*"), "m/gguf/M-Q8_0.gguf") << "case does not count";
  EXPECT_EQ(Found("${model}/gguf/*IQ1*"), "m/gguf/M-IQ1_S-00001-of-00002.gguf")
      << "the parts of a split file are one model";
  EXPECT_EQ(Found("${model}/*/*Q4_K_M*"), "m/gguf/q4_k_m") << "a folder";
  EXPECT_EQ(Found("${model}/y.gguf", "a [x]"), "a [x]/y.gguf") << "--model is no pattern";
  EXPECT_EQ(Found("../beside/z.gguf"), "recipes/../beside/z.gguf") << "relative to the recipe";
  EXPECT_EQ(Found((folder_ / "beside/*").string()), "beside/z.gguf");
}

TEST_F(SourceTest, NoneOrSeveralAreOneSentence) {
  EXPECT_THAT(NotFound("${model}/gguf/*Q5*"),
              AllOf(HasSubstr("r.yaml line 7: sources.experts: expected exactly one file or folder "
                              "matching "),
                    HasSubstr("/m/gguf/*Q5*, found none (there is M-IQ1_S-00001-of-00002.gguf, ")));
  EXPECT_THAT(NotFound("${model}/gguf/*Q2_K*"),
              AllOf(HasSubstr("/m/gguf/*Q2_K*, found 2: "), EndsWith("/m/gguf/N-Q2_K.gguf")));
  EXPECT_THAT(NotFound("${model}/gone/*"), HasSubstr("found none"));
  EXPECT_THAT(NotFound("${model}", "gone"), HasSubstr("gone, found none"));
  EXPECT_THAT(NotFound("${model}/config.json/x"), HasSubstr("found none"));
}

ModelConfig SmallConfig(const std::string& family = "deepseek_v3") {
  const char* root = std::getenv("TANDEM_SOURCE_DIR");
  const std::string path =
      absl::StrCat(root != nullptr ? root : ".", "/tests/model/configs/", family, "_small.json");
  std::ifstream in(path);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  absl::StatusOr<ModelConfig> config = ParseHfConfig(text, path);
  EXPECT_TRUE(config.ok()) << config.status();
  return *config;
}

absl::StatusOr<std::vector<AssignedModule>> Assign(const std::string& rules,
                                                   const ModelConfig& config = SmallConfig()) {
  const absl::StatusOr<Recipe> recipe =
      ParseRecipe(absl::StrCat("name: x\nlinear:\n  rules:\n", rules), "r.yaml");
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  return AssignLinear(*recipe, config);
}

const AssignedModule* Find(const std::vector<AssignedModule>& all, const std::string& path) {
  for (const AssignedModule& module : all) {
    if (module.module.path == path) return &module;
  }
  ADD_FAILURE() << "no module " << path;
  return &all.front();
}

TEST(AssignLinearTest, TheFirstRuleThatMatchesWins) {
  const auto all = Assign(
      "    - {match: 'layers\\.1\\..*down', format: marlin8}\n"
      "    - {match: '^model\\.layers\\.', format: fp8}\n");
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->size(), LinearModules(SmallConfig()).size());
  EXPECT_EQ(Find(*all, "model.layers.1.mlp.shared_experts.down_proj")->choice.format,
            WeightFormat::kMarlin8);
  EXPECT_EQ(Find(*all, "model.layers.1.mlp.shared_experts.down_proj")->rule_line, 4);
  EXPECT_EQ(Find(*all, "model.layers.0.mlp.down_proj")->choice.format, WeightFormat::kFp8);
  EXPECT_EQ(Find(*all, "model.layers.0.mlp.down_proj")->rule_line, 5);
  EXPECT_EQ(Find(*all, "lm_head")->choice, LinearChoice());
  EXPECT_EQ(Find(*all, "lm_head")->rule_line, 0);
}

TEST(AssignLinearTest, AGeneralRuleLeavesTheFixedOnesAlone) {
  const auto all = Assign("    - {match: '.*', format: marlin4, group: 64}\n");
  ASSERT_TRUE(all.ok()) << all.status();
  int fixed = 0;
  for (const AssignedModule& m : *all) {
    const bool is_fixed = m.module.kind != ModuleKind::kFree;
    fixed += is_fixed;
    EXPECT_EQ(m.choice.format, is_fixed ? WeightFormat::kBf16 : WeightFormat::kMarlin4)
        << m.module.path;
  }
  const ModelConfig c = SmallConfig();
  EXPECT_EQ(fixed, 2 * c.num_hidden_layers - c.first_k_dense_replace)
      << "kv_b_proj of every layer, the router of MoE layers";
  EXPECT_EQ(Find(*all, "model.layers.1.mlp.gate")->module.kind, ModuleKind::kAlwaysF32);
}

TEST(AssignLinearTest, RulesWithoutEffectAreMistakes) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"    - {match: q_proj, format: fp8}\n",
       "r.yaml line 4: rule q_proj matches no linear layer of this model"},
      {"    - {match: 'mlp\\.experts', format: fp8}\n", "CPU workers compute them as stored"},
      {"    - {match: model, format: fp8}\n    - {match: o_proj, format: marlin8}\n",
       "line 5: rule o_proj matches only layers that earlier rules have decided"},
      {"    - {match: kv_b_proj, format: fp8}\n",
       "line 4: rule kv_b_proj asks for fp8 for model.layers."},
      {"    - {match: 'mlp\\.gate$', format: bf16}\n", "the router, which is always f32"},
  };
  for (const auto& [rules, expected] : cases) {
    const auto all = Assign(rules);
    ASSERT_FALSE(all.ok()) << rules;
    EXPECT_THAT(std::string(all.status().message()), HasSubstr(expected));
  }
  EXPECT_TRUE(Assign("    - {match: kv_b_proj, format: bf16}\n").ok()) << "it is so anyway";
}

TEST(AssignLinearTest, PlainQueriesHaveTheirOwnName) {
  const auto all = Assign("    - {match: q_proj, format: fp8}\n", SmallConfig("deepseek_v2_lite"));
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(Find(*all, "model.layers.0.self_attn.q_proj")->choice.format, WeightFormat::kFp8);
}

TEST(AssignLinearTest, ShippedRecipesFitEveryFamily) {
  const char* root = std::getenv("TANDEM_SOURCE_DIR");
  int recipes = 0;
  for (const auto& entry :
       fs::directory_iterator(absl::StrCat(root != nullptr ? root : ".", "/deploy/recipes"))) {
    const absl::StatusOr<Recipe> recipe = LoadRecipe(entry.path());
    ASSERT_TRUE(recipe.ok()) << recipe.status();
    for (const char* family :
         {"deepseek_v3", "deepseek_v2_lite", "deepseek_v2", "kimi_k2", "moonlight"}) {
      const auto all = AssignLinear(*recipe, SmallConfig(family));
      EXPECT_TRUE(all.ok()) << family << ": " << all.status();
    }
    ++recipes;
  }
  EXPECT_EQ(recipes, 11);
}

TEST(AssignLinearTest, FormatsAreCountedForPeople) {
  const auto all = Assign(
      "    - {match: lm_head, format: bf16, kernel: onednn}\n"
      "    - {match: model, format: marlin8, group: 64}\n");
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_THAT(FormatsText(*all),
              AllOf(StartsWith("marlin8 g64 ("), EndsWith("bf16 by onednn (1)")));
}

}  // namespace
}  // namespace tandem
