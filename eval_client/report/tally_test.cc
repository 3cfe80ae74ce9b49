// How records are judged by kind, and pass@k.
#include "eval_client/report/tally.h"

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"

namespace tandem::eval {
namespace {

Record MakeRecord(AnswerKind kind, const std::string& gold, const std::string& text) {
  Record record;
  record.id = "x";
  record.kind = kind;
  record.gold = gold;
  record.letters = kind == AnswerKind::kLetter ? 4 : 0;
  record.answer.text = text;
  record.answer.finish = Finish::kStop;
  return record;
}

TEST(Judge, NumbersByEachRule) {
  const Record record = MakeRecord(AnswerKind::kNumber, "1200", "The answer is 1,200.\n#### 1200");
  EXPECT_EQ(Judge(record, AnswerParser::kHashes), Outcome::kCorrect);
  EXPECT_EQ(Judge(record, AnswerParser::kLastNumber), Outcome::kCorrect);
  EXPECT_EQ(Judge(record, AnswerParser::kAnswerPhrase), Outcome::kCorrect);
  // A hundredth passes by the artifact's comparison and by no other.
  const Record hundredth = MakeRecord(AnswerKind::kNumber, "1200", "12");
  EXPECT_EQ(Judge(hundredth, AnswerParser::kAnswerPhrase), Outcome::kCorrect);
  EXPECT_EQ(Judge(hundredth, AnswerParser::kLastNumber), Outcome::kWrong);
  EXPECT_EQ(Judge(hundredth, AnswerParser::kHashes), Outcome::kUnparsed);
}

TEST(Judge, LettersBeyondFour) {
  Record record = MakeRecord(AnswerKind::kLetter, "J", "J");
  record.letters = 10;
  EXPECT_EQ(Judge(record, AnswerParser::kLastChar), Outcome::kCorrect);
  record.letters = 9;
  EXPECT_EQ(Judge(record, AnswerParser::kLastChar), Outcome::kUnparsed);
}

TEST(Judge, LogProbabilitiesNeedNoText) {
  Record record = MakeRecord(AnswerKind::kLetter, "C", "A");
  EXPECT_EQ(Judge(record, AnswerParser::kLogprob), Outcome::kUnparsed);
  record.letter_logprobs = {-2.0f, -3.0f, -0.5f, -9.0f};
  EXPECT_EQ(Judge(record, AnswerParser::kLogprob), Outcome::kCorrect);
  record.letter_logprobs = {-0.5f, -3.0f, -0.5f, -9.0f};  // the first one on a tie
  EXPECT_EQ(Judge(record, AnswerParser::kLogprob), Outcome::kWrong);
}

TEST(Judge, ParsersAreThoseThatApply) {
  Record record = MakeRecord(AnswerKind::kLetter, "C", "A");
  EXPECT_EQ(ParsersFor({record}).size(), 4u);
  record.letter_logprobs = {-1.0f, -1.0f, -1.0f, -1.0f};
  EXPECT_EQ(ParsersFor({record}).front(), AnswerParser::kLogprob);
  EXPECT_EQ(ParsersFor({MakeRecord(AnswerKind::kCode, "", "x")}),
            std::vector<AnswerParser>{AnswerParser::kRun});
  EXPECT_EQ(ParsersFor(std::vector<Record>()).size(), 4u);
}

// Expected values by fractions.Fraction and math.comb in Python.
TEST(PassAtK, IsTheUnbiasedEstimate) {
  EXPECT_DOUBLE_EQ(PassAtK(10, 0, 1), 0.0);
  EXPECT_DOUBLE_EQ(PassAtK(10, 10, 5), 1.0);
  EXPECT_DOUBLE_EQ(PassAtK(10, 3, 1), 0.3);
  EXPECT_NEAR(PassAtK(10, 3, 5), 0.9166666666666666, 1e-15);
  EXPECT_NEAR(PassAtK(200, 7, 10), 0.3055988116177335, 1e-14);
  EXPECT_DOUBLE_EQ(PassAtK(10, 6, 5), 1.0);
}

TEST(PassAtK, MeanOverTasks) {
  std::vector<Record> records;
  for (int task = 0; task < 2; ++task) {
    for (int sample = 0; sample < 4; ++sample) {
      Record record = MakeRecord(AnswerKind::kCode, "", "code");
      record.id = absl::StrCat("T/", task, "#", sample);
      record.verdict = task == 0 && sample == 0 ? kVerdictPassed : "timeout";
      records.push_back(record);
    }
  }
  EXPECT_DOUBLE_EQ(*MeanPassAtK(records, 1), 0.125);
  EXPECT_DOUBLE_EQ(*MeanPassAtK(records, 2), 0.25);
  EXPECT_DOUBLE_EQ(*MeanPassAtK(records, 4), 0.5);
  EXPECT_FALSE(MeanPassAtK(records, 5).has_value());
  records.back().answer.status = absl::UnavailableError("gone");
  EXPECT_FALSE(MeanPassAtK(records, 4).has_value());
  EXPECT_FALSE(MeanPassAtK({}, 1).has_value());
}

}  // namespace
}  // namespace tandem::eval
