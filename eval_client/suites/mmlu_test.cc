#include "eval_client/suites/mmlu.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "eval_client/suites/digest.h"
#include "nlohmann/json.hpp"

namespace tandem::eval {
namespace {

namespace fs = std::filesystem;
using testing::HasSubstr;

// Empty when there is no copy of the data.
std::string MmluFolder() {
  const char* data = std::getenv("TANDEM_DATA");
  const char* source = std::getenv("TANDEM_SOURCE_DIR");
  const fs::path folder = data     ? fs::path(data) / "mmlu"
                          : source ? fs::path(source) / ".." / "shared" / "data" / "mmlu"
                                   : fs::path("../shared/data/mmlu");
  return fs::exists(folder / "test") ? folder.string() : "";
}

#define SKIP_WITHOUT_DATA(folder) \
  if (folder.empty()) GTEST_SKIP() << "no MMLU files: set TANDEM_DATA to a folder with mmlu/test"

class SmallMmlu : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::path(testing::TempDir()) /
              testing::UnitTest::GetInstance()->current_test_info()->name();
    fs::remove_all(folder_);
    fs::create_directories(folder_);
  }
  void Write(const std::string& name, const std::string& text) {
    std::ofstream(folder_ / name, std::ios::binary) << text;
  }
  absl::StatusOr<std::vector<Question>> Read(int subjects, int rows) {
    std::string data_text;
    return ReadMmluTest(folder_.string(), {subjects, rows}, &data_text);
  }
  fs::path folder_;
};

TEST_F(SmallMmlu, ReadsSubjectsAlphabetically) {
  Write("b_test.csv", "Q3,a,b,c,d,D\r\n");
  Write("a_test.csv", "Q1,a,b,c,d,A\n\"Q2, with \"\"quotes\"\"\",a,b,c,d,B\n");
  Write("a_dev.csv", "not,read\n");
  const auto questions = Read(2, 3);
  ASSERT_TRUE(questions.ok()) << questions.status();
  EXPECT_EQ((*questions)[0].id, "a/test/0");
  EXPECT_EQ((*questions)[1].id, "a/test/1");
  EXPECT_EQ((*questions)[2].id, "b/test/0");
  EXPECT_EQ((*questions)[2].subject, "b");
  EXPECT_EQ((*questions)[2].gold, "D");
  EXPECT_THAT((*questions)[1].prompt, HasSubstr("Question: Q2, with \"quotes\"\nA. a\n"));
}

TEST_F(SmallMmlu, SaysWhatIsWrongWithAFolder) {
  Write("a_test.csv", "Q1,a,b,c,d,A\n");
  EXPECT_THAT(
      std::string(Read(57, 1).status().message()),
      HasSubstr(
          "expected 57 files *_test.csv, or JSON Lines or Parquet with as many subjects, found 1"));
  EXPECT_THAT(std::string(Read(1, 2).status().message()),
              HasSubstr("expected 2 questions, found 1"));
  EXPECT_THAT(
      std::string(LoadMmlu({.name = "mmlu", .data = "/nowhere", .limit = 10}).status().message()),
      HasSubstr("found 0"));
}

TEST_F(SmallMmlu, SaysWhatIsWrongWithARow) {
  Write("a_test.csv", "Q1,a,b,c,A\n");
  EXPECT_THAT(std::string(Read(1, 1).status().message()),
              HasSubstr("a/test/0: expected question, 4 choices and a letter, found 5 fields"));
  Write("a_test.csv", "Q1,a,b,c,d,E\n");
  EXPECT_THAT(std::string(Read(1, 1).status().message()),
              HasSubstr("a/test/0: expected an answer A to D, found 'E'"));
  Write("a_test.csv", "Q1,\"a\n");
  EXPECT_THAT(std::string(Read(1, 1).status().message()), HasSubstr("a_test.csv: line 1"));
}

TEST(Mmlu, AsksTheThousandQuestionsOfTheBenchmark) {
  const std::string folder = MmluFolder();
  SKIP_WITHOUT_DATA(folder);
  const auto suite = LoadMmlu({.name = "mmlu", .data = folder});
  ASSERT_TRUE(suite.ok()) << suite.status();
  std::ifstream file(folder + "/ktransformers_seed42_first1000.json");
  const auto expected = nlohmann::json::parse(file)["items"];
  const auto& questions = (*suite)->questions();
  ASSERT_EQ(questions.size(), expected.size());
  for (size_t i = 0; i < questions.size(); ++i) {
    ASSERT_EQ(questions[i].id, expected[i]["id"]) << "rank " << i;
    ASSERT_EQ(questions[i].gold, expected[i]["answer"]) << "rank " << i;
  }
}

// The digests were computed by a Python script with csv.reader, random.shuffle and hashlib.sha256,
// which shares nothing with this code: they prove reading, shuffling and prompt together.
TEST(Mmlu, PromptsEqualPythonsToTheByte) {
  const std::string folder = MmluFolder();
  SKIP_WITHOUT_DATA(folder);
  std::string data_text;
  const auto all = ReadMmluTest(folder, {}, &data_text);
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(PromptsDigest(*all),
            "ede1f3e032f48257b258799c88eb0e28846e504ce77ca4a187a1c45d359a19f6");
  const auto suite = LoadMmlu({.name = "mmlu", .data = folder});
  ASSERT_TRUE(suite.ok()) << suite.status();
  EXPECT_EQ(PromptsDigest((*suite)->questions()),
            "f9cf10ccb1702fbca94569b5df71bf470dcd81ffedd9c28c72585dc5172d8cd6");
  EXPECT_EQ((*suite)->data_digest(),
            "3c4457336fa79d203ec385adc8bfaa335e419518de8ab0840bce6f9cda1089fe");
}

TEST(Mmlu, TestSplitHasTheOfficialAnswerCounts) {
  const std::string folder = MmluFolder();
  SKIP_WITHOUT_DATA(folder);
  std::string data_text;
  const auto questions = ReadMmluTest(folder, {}, &data_text);
  ASSERT_TRUE(questions.ok()) << questions.status();
  std::map<std::string, int> answers;
  for (const Question& question : *questions) ++answers[question.gold];
  EXPECT_EQ(answers,
            (std::map<std::string, int>{{"A", 3222}, {"B", 3462}, {"C", 3582}, {"D", 3776}}));
}

}  // namespace
}  // namespace tandem::eval
