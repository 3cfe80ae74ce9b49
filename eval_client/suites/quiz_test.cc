#include "eval_client/suites/quiz.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>

#include "absl/strings/str_cat.h"

namespace tandem::eval {
namespace {

using testing::HasSubstr;

constexpr char kLine[] =
    R"({"id":"q1","subject":"capitals","question":"Where?","choices":["w","x","y","z"],"answer":2})";

std::string Write(const std::string& text) {
  const std::string path =
      absl::StrCat(testing::TempDir(), "/",
                   testing::UnitTest::GetInstance()->current_test_info()->name(), ".jsonl");
  std::ofstream(path, std::ios::binary) << text;
  return path;
}

absl::StatusOr<std::unique_ptr<Suite>> Load(const std::string& path, int limit = 0) {
  return LoadQuiz({.name = "quiz", .data = path, .limit = limit});
}

std::string ErrorOf(const std::string& text) {
  return std::string(Load(Write(text)).status().message());
}

TEST(Quiz, ReadsQuestionsInFileOrder) {
  std::string second = kLine;
  second.replace(second.find("q1"), 2, "q2");
  const auto suite = Load(Write(absl::StrCat(kLine, "\n", second, "\n")));
  ASSERT_TRUE(suite.ok()) << suite.status();
  const auto& questions = (*suite)->questions();
  ASSERT_EQ(questions.size(), 2u);
  EXPECT_EQ(questions[0].id, "q1");
  EXPECT_EQ(questions[1].id, "q2");
  EXPECT_EQ(questions[0].subject, "capitals");
  EXPECT_EQ(questions[0].gold, "C");
  EXPECT_THAT(questions[0].prompt,
              HasSubstr("Question: Where?\nA. w\nB. x\nC. y\nD. z\nAnswer: '"));
  EXPECT_EQ((*suite)->headline_parser(), AnswerParser::kStrict);
}

TEST(Quiz, LimitKeepsTheFirst) {
  std::string second = kLine;
  second.replace(second.find("q1"), 2, "q2");
  const auto suite = Load(Write(absl::StrCat(kLine, "\n", second)), 1);
  ASSERT_TRUE(suite.ok()) << suite.status();
  ASSERT_EQ((*suite)->questions().size(), 1u);
  EXPECT_EQ((*suite)->questions()[0].id, "q1");
}

TEST(Quiz, NamesLineAndKeyOfAnError) {
  EXPECT_THAT(ErrorOf(absl::StrCat(kLine, "\n{\n")), HasSubstr("line 2: expected a JSON object"));
  EXPECT_THAT(ErrorOf(R"({"id":1})"), HasSubstr("line 1: expected a string \"id\""));
  EXPECT_THAT(ErrorOf(R"({"id":"q","subject":"s","question":"w","choices":["a"],"answer":0})"),
              HasSubstr("\"choices\" with 4 strings"));
  EXPECT_THAT(ErrorOf(R"({"id":"q","subject":"s","question":"w","choices":[1,2,3,4],"answer":0})"),
              HasSubstr("\"choices\" with 4 strings"));
  EXPECT_THAT(
      ErrorOf(R"({"id":"q","subject":"s","question":"w","choices":["a","b","c","d"],"answer":4})"),
      HasSubstr("\"answer\" from 0 to 3"));
  EXPECT_THAT(ErrorOf(absl::StrCat(kLine, "\n", kLine)),
              HasSubstr("line 2: id \"q1\" occurs twice"));
  EXPECT_THAT(ErrorOf(""), HasSubstr("expected questions, found none"));
  EXPECT_THAT(std::string(Load("/nowhere/quiz.jsonl").status().message()),
              HasSubstr("/nowhere/quiz.jsonl"));
}

TEST(Suite, UnknownNamesAreRefused) {
  EXPECT_THAT(
      std::string(LoadSuite({.name = "trivia", .data = "x"}).status().message()),
      HasSubstr("expected a suite of quiz, mmlu, mmlu_pro, gsm8k, humaneval, found 'trivia'"));
}

// int.from_bytes(hashlib.sha256(b"7/anatomy/test/12").digest()[:8], "little") in Python.
TEST(Suite, QuestionSeedIsTheStartOfADigest) {
  EXPECT_EQ(QuestionSeed(7, "anatomy/test/12"), 2234486035188476875u);
  EXPECT_NE(QuestionSeed(8, "anatomy/test/12"), QuestionSeed(7, "anatomy/test/12"));
  EXPECT_NE(QuestionSeed(7, "anatomy/test/13"), QuestionSeed(7, "anatomy/test/12"));
}

}  // namespace
}  // namespace tandem::eval
