// Journal, tally, manifest, table and progress: what a run leaves behind and how it is read.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <sstream>

#include "absl/strings/str_cat.h"
#include "eval_client/report/journal.h"
#include "eval_client/report/manifest.h"
#include "eval_client/report/progress.h"
#include "eval_client/report/table.h"
#include "eval_client/report/tally.h"
#include "nlohmann/json.hpp"

namespace tandem::eval {
namespace {

using testing::HasSubstr;

std::string TempPath(const std::string& ending) {
  const auto* test = testing::UnitTest::GetInstance()->current_test_info();
  return absl::StrCat(testing::TempDir(), "/", test->test_suite_name(), "_", test->name(), ending);
}

std::string FileText(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

Record MakeRecord(const std::string& id, const std::string& text, Finish finish = Finish::kStop) {
  Record record;
  record.id = id;
  record.subject = id.substr(0, id.find('/'));
  record.gold = "A";
  record.seed = 0xFFFFFFFFFFFFFFFFu;
  record.answer.text = text;
  record.answer.finish = finish;
  record.answer.prompt_tokens = 90;
  record.answer.completion_tokens = 2;
  record.answer.wall = absl::Microseconds(12500);
  record.answer.attempts = 1;
  return record;
}

Record MakeFailed(const std::string& id) {
  Record record = MakeRecord(id, "", Finish::kUnknown);
  record.answer.status = absl::UnavailableError("gone");
  return record;
}

TEST(Journal, RecordsSurviveTheRoundTrip) {
  const Record record = MakeRecord("a/1", "A\n\"quoted\" \xC3\xA9");
  const auto back = RecordFromJson(RecordToJsonLine(record));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->id, record.id);
  EXPECT_EQ(back->subject, "a");
  EXPECT_EQ(back->gold, "A");
  EXPECT_EQ(back->seed, record.seed);
  EXPECT_EQ(back->answer.text, record.answer.text);
  EXPECT_EQ(back->answer.finish, Finish::kStop);
  EXPECT_EQ(back->answer.completion_tokens, 2u);
  EXPECT_EQ(back->answer.wall, absl::Microseconds(12500));
  const auto failed = RecordFromJson(RecordToJsonLine(MakeFailed("a/2")));
  ASSERT_TRUE(failed.ok()) << failed.status();
  EXPECT_EQ(failed->answer.status, absl::UnavailableError("gone"));
}

TEST(Journal, KeepsWhatOtherKindsOfAnswersNeed) {
  Record record = MakeRecord("a/1", "return 1");
  record.gold = "";
  record.kind = AnswerKind::kCode;
  record.letters = 0;
  record.verdict = "failed: AssertionError";
  auto back = RecordFromJson(RecordToJsonLine(record));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->kind, AnswerKind::kCode);
  EXPECT_EQ(back->letters, 0);
  EXPECT_EQ(back->verdict, record.verdict);
  record = MakeRecord("a/1", "J");
  record.gold = "J";
  record.letters = 10;
  record.letter_logprobs = {-0.5f, -1.25f};
  back = RecordFromJson(RecordToJsonLine(record));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->kind, AnswerKind::kLetter);
  EXPECT_EQ(back->letters, 10);
  EXPECT_EQ(back->letter_logprobs, record.letter_logprobs);
  std::string line = RecordToJsonLine(record);
  std::string huge = line;
  huge.replace(huge.find("-1.25"), 5, "1e300");
  EXPECT_THAT(std::string(RecordFromJson(huge).status().message()), HasSubstr("'letter_logprobs'"));
  line.replace(line.find("\"letters\":10"), 12, "\"letters\":99");
  EXPECT_THAT(std::string(RecordFromJson(line).status().message()), HasSubstr("'letters'"));
}

TEST(Journal, ReadsJournalsOfBeforeThereWereOtherKinds) {
  const auto record = RecordFromJson(
      R"({"id":"a/1","subject":"a","gold":"B","seed":1,"code":0,"error":"","text":"B",)"
      R"("finish":"stop","prompt_tokens":1,"completion_tokens":1,"queue_us":0,)"
      R"("first_token_us":0,"total_us":0,"wall_us":0,"attempts":1})");
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ(record->gold, "B");
  EXPECT_EQ(record->kind, AnswerKind::kLetter);
  EXPECT_EQ(record->letters, 4);
  EXPECT_TRUE(record->verdict.empty());
  EXPECT_TRUE(record->letter_logprobs.empty());
}

TEST(Journal, MissingAndWrongKeysAreNamed) {
  EXPECT_THAT(std::string(RecordFromJson("{}").status().message()), HasSubstr("'id'"));
  EXPECT_THAT(std::string(RecordFromJson("[1]").status().message()), HasSubstr("'id'"));
  EXPECT_THAT(std::string(RecordFromJson("{").status().message()), HasSubstr("not JSON"));
  std::string line = RecordToJsonLine(MakeRecord("a/1", "A"));
  line.replace(line.find("\"attempts\":1"), 12, "\"attempts\":\"1\"");
  EXPECT_THAT(std::string(RecordFromJson(line).status().message()), HasSubstr("'attempts'"));
}

TEST(Journal, EveryTornLastLineIsDroppedAndWrittenOver) {
  const std::string path = TempPath(".jsonl");
  const std::string first = RecordToJsonLine(MakeRecord("a/1", "A"));
  const std::string second = RecordToJsonLine(MakeRecord("a/2", "B"));
  for (size_t kept = 1; kept < second.size(); ++kept) {
    std::ofstream(path, std::ios::trunc) << first << second.substr(0, kept);
    const auto contents = ReadJournal(path);
    ASSERT_TRUE(contents.ok()) << contents.status();
    ASSERT_TRUE(contents->torn);
    ASSERT_EQ(contents->records.size(), 1u);
    ASSERT_EQ(contents->good_bytes, first.size());
    auto writer = JournalWriter::Open(path, contents->good_bytes);
    ASSERT_TRUE(writer.ok()) << writer.status();
    ASSERT_TRUE(writer->Append(MakeRecord("a/2", "B")).ok());
    ASSERT_EQ(FileText(path), first + second);
  }
}

TEST(Journal, DamageElsewhereIsAnErrorWithItsLine) {
  const std::string path = TempPath(".jsonl");
  const std::string good = RecordToJsonLine(MakeRecord("a/1", "A"));
  std::ofstream(path, std::ios::trunc) << good << "{broken\n" << good;
  const auto contents = ReadJournal(path);
  EXPECT_TRUE(absl::IsDataLoss(contents.status())) << contents.status();
  EXPECT_THAT(std::string(contents.status().message()), HasSubstr("line 2"));
}

TEST(Journal, TwoRunsCannotShareAFile) {
  const std::string path = TempPath(".jsonl");
  auto first = JournalWriter::Open(path, 0);
  ASSERT_TRUE(first.ok()) << first.status();
  EXPECT_THAT(std::string(JournalWriter::Open(path, 0).status().message()),
              HasSubstr("is being written by another run"));
}

TEST(Tally, EveryQuestionIsInExactlyOneColumn) {
  EXPECT_EQ(Judge(MakeRecord("a/1", "A"), AnswerParser::kStrict), Outcome::kCorrect);
  EXPECT_EQ(Judge(MakeRecord("a/1", "B"), AnswerParser::kStrict), Outcome::kWrong);
  EXPECT_EQ(Judge(MakeRecord("a/1", "maybe"), AnswerParser::kStrict), Outcome::kUnparsed);
  EXPECT_EQ(Judge(MakeRecord("a/1", "well, B", Finish::kLength), AnswerParser::kLastChar),
            Outcome::kTruncated);
  EXPECT_EQ(Judge(MakeRecord("a/1", "A", Finish::kLength), AnswerParser::kStrict),
            Outcome::kCorrect);
  EXPECT_EQ(Judge(MakeFailed("a/1"), AnswerParser::kStrict), Outcome::kFailed);
}

TEST(Tally, CodeIsJudgedByItsVerdict) {
  Record record = MakeRecord("a/1", "return 1");
  record.kind = AnswerKind::kCode;
  record.verdict = kVerdictPassed;
  EXPECT_EQ(Judge(record, AnswerParser::kStrict), Outcome::kCorrect);
  record.verdict = "timeout";
  EXPECT_EQ(Judge(record, AnswerParser::kStrict), Outcome::kWrong);
  record.verdict = "";
  EXPECT_EQ(Judge(record, AnswerParser::kStrict), Outcome::kWrong);
}

TEST(Tally, FailedQuestionsAreInNoScore) {
  const Tally tally = CountOutcomes(
      {MakeRecord("a/1", "A"), MakeRecord("a/2", "B"), MakeRecord("b/1", "A"), MakeFailed("b/2")},
      AnswerParser::kStrict);
  EXPECT_EQ(tally.total.answered(), 3);
  EXPECT_EQ(tally.total.failed, 1);
  EXPECT_DOUBLE_EQ(tally.total.percent(), 200.0 / 3.0);
  EXPECT_DOUBLE_EQ(tally.subjects.at("b").percent(), 100.0);
  EXPECT_DOUBLE_EQ(Counts().percent(), 0.0);
}

TEST(Tally, ASecondRecordReplacesTheFirst) {
  const auto latest =
      LatestRecords({MakeFailed("a/1"), MakeRecord("a/2", "B"), MakeRecord("a/1", "A")});
  ASSERT_EQ(latest.size(), 2u);
  EXPECT_EQ(latest[0].id, "a/1");
  EXPECT_TRUE(latest[0].answer.status.ok());
}

Manifest MakeManifest() {
  Manifest manifest;
  manifest.tool_version = "0.1.0";
  manifest.suite = "quiz";
  manifest.prompts_sha256 = "aa11";
  manifest.questions = 4;
  manifest.headline_parser = "strict";
  manifest.model.set_name("tiny");
  manifest.model.set_digest("0123456789abcdef0123");
  manifest.model.set_expert_formats("bf16");
  manifest.temperature = 0.6f;
  manifest.max_tokens = 16;
  manifest.seed = 7;
  manifest.concurrency = 8;
  manifest.sessions.push_back({"tandem-eval run", "2026-11-25T13:00:00Z", "2026-11-25T13:00:02Z",
                               "finished", 4, 360, 8, 2.0});
  return manifest;
}

TEST(Manifest, SurvivesTheRoundTrip) {
  const std::string path = TempPath(".json");
  Manifest manifest = MakeManifest();
  DescribeHost(&manifest);
  EXPECT_GT(manifest.host_cores, 0);
  EXPECT_FALSE(manifest.host_cpu.empty());
  ASSERT_TRUE(WriteManifest(path, manifest).ok());
  const auto back = ReadManifest(path);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(ManifestToJson(*back), ManifestToJson(manifest));
  EXPECT_TRUE(CheckSameRun(manifest, *back).ok());
  EXPECT_THAT(std::string(ManifestFromJson("{}").status().message()), HasSubstr("tool_version"));
}

TEST(Manifest, OnlyWhatChangesAnswersKeepsARunFromGoingOn) {
  const Manifest manifest = MakeManifest();
  Manifest other = manifest;
  other.endpoint = "elsewhere:1";
  other.concurrency = 1;
  other.model.set_cpu_workers_ready(9);
  EXPECT_TRUE(CheckSameRun(manifest, other).ok());
  other.seed = 8;
  EXPECT_EQ(CheckSameRun(manifest, other).message(),
            "expected the seed of the earlier run, 7, found 8");
  other = manifest;
  other.model.set_digest("other");
  EXPECT_THAT(std::string(CheckSameRun(manifest, other).message()), HasSubstr("model digest"));
  other = manifest;
  other.model.set_expert_formats("q4_K");
  EXPECT_FALSE(CheckSameRun(manifest, other).ok());
  other = manifest;
  other.model.set_precision("f32");  // the earlier run did not know
  EXPECT_TRUE(CheckSameRun(manifest, other).ok());
  Manifest bf16 = manifest;
  bf16.model.set_precision("bf16");
  EXPECT_FALSE(CheckSameRun(bf16, other).ok());
  other = manifest;
  other.prompts_sha256 = "bb22";
  EXPECT_FALSE(CheckSameRun(manifest, other).ok());
  other = manifest;
  other.temperature = 0.0f;
  EXPECT_FALSE(CheckSameRun(manifest, other).ok());
  other = manifest;
  other.max_tokens = 17;
  EXPECT_FALSE(CheckSameRun(manifest, other).ok());
}

const std::vector<Record>& FourRecords() {
  static const std::vector<Record> records = {MakeRecord("a/1", "A"), MakeRecord("a/2", "B'"),
                                              MakeRecord("b/1", "A."), MakeFailed("b/2")};
  return records;
}

TEST(Table, ShowsEveryColumnAndParser) {
  const std::string table = RenderTable(MakeManifest(), FourRecords());
  EXPECT_THAT(table, HasSubstr("suite quiz, 4 questions   model tiny"));
  // 1 of 2: Wilson 9.5 .. 90.5; 1 of 3: 6.1 .. 79.2 (scipy).
  EXPECT_THAT(table, HasSubstr("a                       2        1   50.0     9.5 ..  90.5      1"
                               "         0          0       0\n"));
  EXPECT_THAT(table, HasSubstr("total                   3        1   33.3     6.1 ..  79.2      1"
                               "         1          0       1\n"));
  EXPECT_THAT(table, HasSubstr("total (first_char)      3        2   66.7"));
  EXPECT_THAT(table, HasSubstr("total (last_char)       3        1   33.3"));
  EXPECT_THAT(table, HasSubstr("2.00 questions/s, 4.0 generated tokens/s, 180.0 prompt tokens/s"));
  EXPECT_THAT(table, HasSubstr("1 questions failed and are in no score"));
}

TEST(Table, SaysWhenQuestionsAreMissingOrCutOff) {
  const std::string table =
      RenderTable(MakeManifest(), {MakeRecord("a/1", "I think", Finish::kLength)});
  EXPECT_THAT(table, HasSubstr("3 of 4 questions were not asked"));
  EXPECT_THAT(table, HasSubstr("1 answers were cut off at 16 tokens"));
}

TEST(Table, JsonHoldsTheSameNumbers) {
  const auto json = nlohmann::json::parse(RenderJson(MakeManifest(), FourRecords()));
  EXPECT_EQ(json["total"]["answered"], 3);
  EXPECT_EQ(json["total"]["correct"], 1);
  EXPECT_EQ(json["total"]["failed"], 1);
  EXPECT_EQ(json["subjects"]["b"]["unparsed"], 1);
  EXPECT_EQ(json["by_parser"]["first_char"]["correct"], 2);
  EXPECT_EQ(json["manifest"]["sampling"]["seed"], 7);
  EXPECT_DOUBLE_EQ(json["speed"]["questions_per_s"], 2.0);
}

TEST(Table, ShowsScoredLettersAndPassAtK) {
  std::vector<Record> scored = FourRecords();
  for (Record& record : scored) record.letter_logprobs = {-0.1f, -2.0f, -3.0f, -4.0f};
  EXPECT_THAT(RenderTable(MakeManifest(), scored),
              HasSubstr("total (logprob)         3        3  100.0"));
  std::vector<Record> code;
  for (int i = 0; i < 10; ++i) {
    code.push_back(MakeRecord(absl::StrCat("t#", i), "code"));
    code.back().kind = AnswerKind::kCode;
    code.back().verdict = i < 3 ? kVerdictPassed : "timeout";
  }
  EXPECT_THAT(RenderTable(MakeManifest(), code),
              HasSubstr("Of the tasks, pass@1 30.0 %, pass@5 91.7 %, pass@10 100.0 % (estimated"));
  const auto json = nlohmann::json::parse(RenderJson(MakeManifest(), code));
  EXPECT_NEAR(json["pass_at_k_percent"]["5"].get<double>(), 91.6667, 1e-3);
}

TEST(Table, ComparisonIsPaired) {
  const std::vector<Record> baseline = {MakeRecord("a/1", "A"), MakeRecord("a/2", "A"),
                                        MakeRecord("b/1", "A"), MakeRecord("b/2", "A")};
  const auto text = RenderComparison(MakeManifest(), FourRecords(), MakeManifest(), baseline);
  ASSERT_TRUE(text.ok()) << text.status();
  EXPECT_THAT(*text, HasSubstr("3 questions, 1 left out"));
  EXPECT_THAT(*text, HasSubstr("this run 33.3 %, baseline 100.0 %, difference -66.7 points"));
  EXPECT_THAT(*text,
              HasSubstr("in both 1, in this run alone 0, in the baseline alone 2, in neither 0"));
  EXPECT_THAT(*text, HasSubstr("p = 0.5000"));
  Manifest other = MakeManifest();
  other.prompts_sha256 = "bb22";
  EXPECT_THAT(
      std::string(
          RenderComparison(MakeManifest(), FourRecords(), other, baseline).status().message()),
      HasSubstr("expected two runs over the same questions"));
}

TEST(Progress, LineShowsCountRateScoreAndRest) {
  const ProgressState state = {.done = 50,
                               .total = 100,
                               .correct = 30,
                               .answered = 40,
                               .failed = 10,
                               .elapsed = absl::Seconds(10)};
  EXPECT_EQ(ProgressLine(state, 0), "50/100  5.0/s  75.0 % right  10 failed  10s left");
  EXPECT_EQ(ProgressLine(state, 10).substr(0, 13), "[=====     ] ");
  EXPECT_EQ(ProgressLine({}, 0), "0/0  0.0/s");
}

}  // namespace
}  // namespace tandem::eval
