#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>

#include "eval_client/run_folder.h"
#include "eval_client/table/row_plan.h"
#include "eval_client/table/table_data.h"
#include "eval_client/table/table_plan.h"
#include "eval_client/table/table_render.h"
#include "eval_client/table/table_run.h"
#include "nlohmann/json.hpp"

namespace tandem::eval {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Not;

constexpr char kExplained[] = R"json({
  "name": "mmlu-4", "file": "deploy/recipes/mmlu-4.yaml", "model": "models/quiz",
  "recipe_digest": "aa", "digest": "bb", "linear_formats": "marlin8 g64 (29)",
  "attention": "flash", "precision": "bf16",
  "sources": {"experts": {"types": {"q4_K": {}, "q6_K": {}}}},
  "table": {"dataset": "mmlu", "row": 4, "model": "DeepSeek-V3", "cpu_weight_format": "q4km",
    "cpu_kernel": "cpuinfer", "gpu_weight_format": "q4km->marlin 8", "gemm_kernel": "marlin",
    "mla_kernel": "triton", "siliconflow": "81.6", "ktrans_point": "81.1"}})json";

RowPlan Row(const std::string& dataset, int number) {
  RowPlan row = *RowPlanFromJson(kExplained);
  row.published.dataset = dataset;
  row.published.row = number;
  row.name = dataset + "-" + std::to_string(number);
  return row;
}

TEST(RowPlan, IsReadFromWhatRecipeExplainPrints) {
  const auto row = RowPlanFromJson(kExplained);
  ASSERT_TRUE(row.ok()) << row.status();
  EXPECT_EQ(row->name, "mmlu-4");
  EXPECT_EQ(row->expert_types, "q4_K, q6_K");
  EXPECT_EQ(row->published.gpu_weight_format, "q4km->marlin 8");
  EXPECT_EQ(row->published.score, "81.1");
  EXPECT_THAT(std::string(RowPlanFromJson("{}").status().message()), HasSubstr("file"));
  EXPECT_FALSE(RowPlanFromJson("").ok());
}

TEST(RowPlan, MissingRecipesAreSaid) {
  EXPECT_THAT(std::string(PlanRows("/bin/false", {"/no/such"}, {"m", {}}).status().message()),
              HasSubstr("/no/such"));
  EXPECT_EQ(PlanRows("/bin/false", {testing::TempDir()}, {"m", {}}).status().code(),
            absl::StatusCode::kNotFound);
}

TEST(TablePlan, SuitesGoToTheRowsOfTheirDataset) {
  const PublishedRow mmlu = Row("mmlu", 1).published, pro = Row("mmlu_pro", 1).published;
  EXPECT_THAT(SuitesOfRow({"quiz"}, mmlu), ElementsAre("quiz"));
  EXPECT_THAT(SuitesOfRow({"quiz"}, pro), ElementsAre("quiz"));
  const std::vector<std::string> all = {"mmlu", "mmlu_pro", "gsm8k", "humaneval"};
  EXPECT_THAT(SuitesOfRow(all, mmlu), ElementsAre("mmlu", "gsm8k", "humaneval"));
  EXPECT_THAT(SuitesOfRow(all, pro), ElementsAre("mmlu_pro"));
  EXPECT_THAT(SuitesOfRow({"mmlu"}, pro), IsEmpty());
  EXPECT_THAT(SuitesOfRow({"gsm8k", "mmlu_pro"}, pro), ElementsAre("gsm8k", "mmlu_pro"));
}

TEST(TablePlan, RunsAreRowsTheFirstAgainAndTheBaseline) {
  TableOptions options;
  options.baseline.address = "http://h/v1";
  options.baseline_name = "rival";
  options.seed = 5;
  const TablePlan plan = MakeTablePlan({Row("mmlu", 1), Row("mmlu", 2)}, options, "out");
  ASSERT_EQ(plan.runs.size(), 4u);
  EXPECT_EQ(plan.runs[0].folder, "out/runs/mmlu-1");
  EXPECT_EQ(plan.runs[1].label, "mmlu-1 again");
  EXPECT_EQ(plan.runs[1].seed, 6u);
  EXPECT_EQ(plan.runs[2].row, &plan.rows[1]);
  EXPECT_EQ(plan.runs[3].label, "rival");
  EXPECT_EQ(plan.runs[3].row, nullptr);
}

TEST(TablePlan, ResumingNamesWhatDiffers) {
  TableOptions options;
  const TablePlan plan = MakeTablePlan({Row("mmlu", 1)}, options, "out");
  const std::string earlier = PlanToJson(plan, options);
  EXPECT_TRUE(CheckSamePlan(earlier, PlanToJson(plan, options)).ok());
  options.concurrency = 99;  // no answer depends on it
  EXPECT_TRUE(CheckSamePlan(earlier, PlanToJson(plan, options)).ok());
  options.limit = 7;
  EXPECT_THAT(std::string(CheckSamePlan(earlier, PlanToJson(plan, options)).message()),
              HasSubstr("'limit' of the earlier table, 0, found 7"));
  EXPECT_FALSE(CheckSamePlan("{", earlier).ok());
}

// Stored runs of rows whose answers are given by a string each: '+' right, '-' wrong.
class StoredTable : public testing::Test {
 protected:
  void SetUp() override {
    out_ = testing::TempDir() + "/table_" +
           testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(out_);
    options_.model = "quiz </script><b>";
  }

  void Store(const PlannedRun& run, const std::string& answers) {
    Manifest manifest;
    manifest.suite = "quiz";
    manifest.questions = static_cast<int64_t>(answers.size());
    manifest.headline_parser = "strict";
    manifest.prompts_sha256 = std::string(64, 'a');
    manifest.model.set_name("quiz");
    Session session;
    session.outcome = "finished";
    session.wall_s = 2.0;
    manifest.sessions = {session};
    auto folder = RunFolder::Open(run.folder + "/quiz", false, manifest);
    ASSERT_TRUE(folder.ok()) << folder.status();
    for (size_t i = 0; i < answers.size(); ++i) {
      Record record;
      record.id = "q" + std::to_string(i);
      record.subject = "s";
      record.gold = "A";
      const bool right = answers[i] == '+';
      record.answer.text = right ? "A" : "B";
      record.answer.finish = Finish::kStop;
      record.answer.completion_tokens = 3;
      record.answer.wall = absl::Milliseconds(500);
      record.letter_logprobs = right ? std::vector<float>{-0.1f, -3.0f, -4.0f, -5.0f}
                                     : std::vector<float>{-3.0f, -0.1f, -4.0f, -5.0f};
      ASSERT_TRUE(folder->Append(record).ok());
    }
    ASSERT_TRUE(folder->SaveManifest().ok());
  }

  std::string out_;
  TableOptions options_;
};

TEST_F(StoredTable, ComparesEveryRowWithTheFirst) {
  const TablePlan plan =
      MakeTablePlan({Row("mmlu", 1), Row("mmlu", 2), Row("mmlu", 7)}, options_, out_);
  Store(plan.runs[0], std::string(40, '+'));
  Store(plan.runs[1], std::string(38, '+') + "--");  // again, another seed
  Store(plan.runs[2], "-" + std::string(39, '+'));   // mmlu-2
  EXPECT_FALSE(IsFinished(plan.runs[3], "quiz"));
  EXPECT_EQ(CollectTable(plan, options_).status().code(), absl::StatusCode::kNotFound);
  Store(plan.runs[3], std::string(20, '-') + std::string(20, '+'));  // mmlu-7
  EXPECT_TRUE(IsFinished(plan.runs[3], "quiz"));

  const auto data = CollectTable(plan, options_);
  ASSERT_TRUE(data.ok()) << data.status();
  ASSERT_EQ(data->sections.size(), 1u);
  const TableSection& section = data->sections[0];
  ASSERT_EQ(section.rows.size(), 3u);
  EXPECT_EQ(section.rows[0].score.counts.correct, 40);
  EXPECT_EQ(section.rows[0].score.letter_percent, 100.0);
  EXPECT_EQ(section.rows[0].score.generated_per_s, 60.0);
  EXPECT_EQ(section.rows[0].score.seconds_per_question, 0.5);
  EXPECT_FALSE(section.rows[0].to_reference.has_value());
  EXPECT_EQ(section.rows[1].verdict, Verdict::kNoDifferenceSeen);
  EXPECT_EQ(section.rows[1].to_reference->paired.only_reference, 1);
  EXPECT_EQ(section.rows[2].verdict, Verdict::kWorse);
  EXPECT_DOUBLE_EQ(section.rows[2].to_reference->paired.difference(), -0.5);
  // 2 * 0.5^20, then twice that for the smaller one of two comparisons.
  EXPECT_NEAR(section.rows[2].to_reference->p_holm, 4.0 / (1 << 20), 1e-12);
  EXPECT_EQ(section.rows[2].to_reference->letters->same_best, 20);
  ASSERT_TRUE(section.noise.has_value());
  EXPECT_EQ(section.noise->paired.flips(), 2);
}

TEST_F(StoredTable, AllThreeFormsSayTheSame) {
  options_.baseline.address = "http://h/v1";
  options_.baseline_name = "rival";
  options_.noise_run = false;
  const TablePlan plan = MakeTablePlan({Row("mmlu", 1), Row("mmlu", 7)}, options_, out_);
  Store(plan.runs[0], std::string(16, '+'));
  Store(plan.runs[1], std::string(8, '-') + std::string(8, '+'));
  Store(plan.runs[2], "-" + std::string(15, '+'));
  const auto data = CollectTable(plan, options_);
  ASSERT_TRUE(data.ok()) << data.status();

  const std::string markdown = TableMarkdown(*data);
  EXPECT_THAT(markdown, HasSubstr("| 1 | q4km | cpuinfer | q4km->marlin 8 | marlin | triton | 93.8 "
                                  "| 100.0 (80.6 to 100.0) |"));
  EXPECT_THAT(markdown, HasSubstr("| -8 +0 | 0.0078 |"));
  EXPECT_THAT(markdown, HasSubstr("mmlu-7: answers worse than mmlu-1: -50.0 points"));

  const Json json = Json::parse(TableJson(*data));
  const Json& row = json["sections"][0]["rows"][1];
  EXPECT_EQ(row["verdict"], "worse");
  EXPECT_EQ(row["to_reference"]["flips_to_wrong"], 8);
  EXPECT_EQ(row["score"]["share"], 0.5);
  EXPECT_EQ(json["sections"][0]["baseline"]["correct"], 15);

  const std::string page = TablePage(*data);
  EXPECT_THAT(page, Not(HasSubstr("quiz </script>")));
  EXPECT_THAT(page, Not(HasSubstr("@TABLE_JSON@")));
  const std::string open = "id=\"data\">";
  const size_t begin = page.find(open) + open.size();
  EXPECT_EQ(Json::parse(page.substr(begin, page.find("</script>", begin) - begin)), json);
  EXPECT_THAT(page, Not(HasSubstr("src=")));  // nothing from elsewhere
  EXPECT_THAT(page, Not(HasSubstr("<link")));
}

}  // namespace
}  // namespace tandem::eval
