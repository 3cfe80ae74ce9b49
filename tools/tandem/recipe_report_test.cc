// Every recipe that ships, on the model that ships.
#include "tools/tandem/recipe_report.h"

#include <cstdlib>
#include <filesystem>
#include <set>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "nlohmann/json.hpp"

namespace tandem::launcher {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::string Source(const std::string& path) {
  const char* root = std::getenv("TANDEM_SOURCE_DIR");
  return absl::StrCat(root != nullptr ? root : ".", "/", path);
}

RecipeReport Report(const std::string& name) {
  const absl::StatusOr<Recipe> recipe = LoadRecipe(Source("deploy/recipes/" + name + ".yaml"));
  EXPECT_TRUE(recipe.ok()) << recipe.status();
  absl::StatusOr<RecipeReport> report = ReportRecipe(*recipe, Source("models/quiz"), {});
  EXPECT_TRUE(report.ok()) << report.status();
  return *std::move(report);
}

std::vector<std::string> Names(const std::map<std::string, TypeCount>& types) {
  std::vector<std::string> names;
  for (const auto& [name, count] : types) names.push_back(name);
  return names;
}

std::set<WeightFormat> Formats(const RecipeReport& report) {
  std::set<WeightFormat> formats;
  for (const ModuleReport& m : report.modules) {
    if (m.assigned.module.kind == ModuleKind::kFree) formats.insert(m.assigned.choice.format);
  }
  return formats;
}

// What the cells of a row promise of the experts, the layers and the attention.
struct Promise {
  std::vector<std::string> expert_types;
  std::set<WeightFormat> formats;
  int64_t group = 0;
};

Promise PromiseOf(const RecipeTableRow& row) {
  Promise out;
  if (row.cpu_weight_format == "bf16") out.expert_types = {"bf16"};
  if (row.cpu_weight_format == "q8_0") out.expert_types = {"q8_0"};
  if (row.cpu_weight_format == "q4km") out.expert_types = {"q4_K", "q6_K"};
  if (row.cpu_weight_format == "iq1") out.expert_types = {"iq1_s"};
  if (row.gpu_weight_format == "bf16") out.formats = {WeightFormat::kBf16};
  // lm_head stays in bf16.
  if (row.gpu_weight_format == "fp8") out.formats = {WeightFormat::kBf16, WeightFormat::kFp8};
  if (row.gpu_weight_format == "q4km->marlin 8") out.formats = {WeightFormat::kMarlin8};
  if (row.gpu_weight_format == "q4km->marlin 4") out.formats = {WeightFormat::kMarlin4};
  if (row.gemm_kernel == "marlin") out.group = 64;
  return out;
}

TEST(ShippedRecipesTest, EachRowIsWhatItsCellsSay) {
  int rows = 0;
  for (const auto& entry : fs::directory_iterator(Source("deploy/recipes"))) {
    const std::string name = entry.path().stem();
    SCOPED_TRACE(name);
    const RecipeReport report = Report(name);
    EXPECT_EQ(report.recipe.name, name);
    if (!report.recipe.table.has_value()) continue;
    ++rows;
    const RecipeTableRow& row = *report.recipe.table;
    EXPECT_EQ(name, absl::StrCat(row.dataset, "-", row.row));
    const Promise promise = PromiseOf(row);
    EXPECT_EQ(Names(report.experts.types), promise.expert_types);
    EXPECT_EQ(Formats(report), promise.formats);
    EXPECT_EQ(report.recipe.attention, row.mla_kernel == "torch" ? "reference" : "flash");
    const bool from_gguf = absl::StartsWith(row.gpu_weight_format, "q4km");
    EXPECT_EQ(report.dense.container, from_gguf ? "gguf" : "safetensors");
    for (const ModuleReport& m : report.modules) {
      const LinearChoice& choice = m.assigned.choice;
      if (choice.format != WeightFormat::kBf16) {
        EXPECT_EQ(choice.group, promise.group);
      }
    }
  }
  EXPECT_EQ(rows, 10) << "rows 1 to 7 of MMLU, 1 to 3 of MMLU-Pro";
}

TEST(ShippedRecipesTest, TheDefaultRecipeIsWhatHappensWithoutOne) {
  const RecipeReport report = Report("default");
  EXPECT_EQ(report.digest, LoadModel(Source("models/quiz"))->digest);
  EXPECT_EQ(report.recipe.attention, "flash");
  EXPECT_EQ(Formats(report), std::set<WeightFormat>{WeightFormat::kBf16});
}

TEST(RecipeReportTest, BytesAreThoseOfTheModules) {
  const RecipeReport report = Report("mmlu-6");
  int64_t sum = report.config.vocab_size * report.config.hidden_size * 2;
  for (const ModuleReport& m : report.modules) sum += m.bytes;
  EXPECT_EQ(report.gpu_worker_bytes, sum);
  const auto bytes_of = [&](const std::string& path) -> int64_t {
    for (const ModuleReport& m : report.modules) {
      if (m.assigned.module.path == path) return m.bytes;
    }
    return -1;
  };
  // [576, 256]: five rows and two columns of fp8 blocks.
  EXPECT_EQ(bytes_of("model.layers.0.self_attn.kv_a_proj_with_mqa"), 576 * 256 + 5 * 2 * 4);
  EXPECT_EQ(bytes_of("model.layers.0.self_attn.kv_b_proj"), 1024 * 512 * 2);
  EXPECT_EQ(bytes_of("model.layers.1.mlp.gate"), 16 * 256 * 4);
  EXPECT_EQ(report.kv_bytes_per_token, 4 * 576 * 2);
  EXPECT_EQ(report.experts_bytes, report.experts.bytes);
}

TEST(RecipeReportTest, TextCollapsesEqualLayers) {
  const RecipeReport report = Report("mmlu-4");
  const std::string text = ReportText(report, false), all = ReportText(report, true);
  EXPECT_THAT(text, HasSubstr("model.layers.0-3.self_attn.o_proj "));
  // Q4_K_M has down projections of two types.
  EXPECT_THAT(text, HasSubstr("model.layers.1.mlp.shared_experts.down_proj "));
  EXPECT_THAT(text, HasSubstr("model.layers.2-3.mlp.shared_experts.down_proj "));
  EXPECT_THAT(all, HasSubstr("model.layers.2.self_attn.o_proj "));
  EXPECT_THAT(text, HasSubstr("q4km | cpuinfer | q4km->marlin 8 | marlin | triton | 81.6 | 81.1"));
}

TEST(RecipeReportTest, JsonHasWhatIsDocumented) {
  const RecipeReport report = Report("mmlu-7");
  const auto json = nlohmann::json::parse(ReportJson(report));
  EXPECT_EQ(json["name"], "mmlu-7");
  EXPECT_EQ(json["recipe_digest"], report.recipe.digest);
  EXPECT_EQ(json["digest"], report.digest);
  EXPECT_EQ(json["table"]["model"], "DeepSeek-R1");
  EXPECT_EQ(json["table"]["ktrans_point"], "83.6");
  EXPECT_EQ(json["sources"]["experts"]["pattern"], "${model}/gguf/*IQ1*");
  EXPECT_EQ(json["sources"]["experts"]["container"], "gguf");
  EXPECT_EQ(json["linear_formats"], "fp8 (28), bf16 (1)");
  EXPECT_EQ(json["cluster"]["cpu_workers"], 2);
  EXPECT_EQ(json["linear"].size(), report.modules.size());
  EXPECT_EQ(json["linear"][0]["module"], "model.layers.0.self_attn.q_a_proj");
  EXPECT_EQ(json["linear"][0]["format"], "fp8");
  EXPECT_EQ(json["linear"][0]["why"], "rule");
  EXPECT_EQ(json["linear"][0]["stored"], "bf16");
  EXPECT_TRUE(nlohmann::json::parse(ReportJson(Report("default")))["table"].is_null());
}

TEST(RecipeReportTest, MistakesNameTheRecipe) {
  const absl::StatusOr<Recipe> recipe =
      ParseRecipe("name: x\nsources: {experts: '${model}/gguf/*Q3*'}", "some/r.yaml");
  ASSERT_TRUE(recipe.ok()) << recipe.status();
  const auto report = ReportRecipe(*recipe, Source("models/quiz"), {});
  ASSERT_FALSE(report.ok());
  EXPECT_THAT(std::string(report.status().message()),
              HasSubstr("some/r.yaml line 2: sources.experts: expected exactly one"));
}

}  // namespace
}  // namespace tandem::launcher
