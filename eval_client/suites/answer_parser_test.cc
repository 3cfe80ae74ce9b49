#include "eval_client/suites/answer_parser.h"

#include <gtest/gtest.h>

#include "eval_client/suites/choice_prompt.h"

namespace tandem::eval {
namespace {

struct Case {
  const char* text;
  char first, last, strict;  // '-': nothing
};

char Read(AnswerParser parser, const char* text) {
  return ParseAnswer(parser, text, kChoices).value_or("-")[0];
}

// The comments say what each historical rule gets wrong; reproducing it is the point.
TEST(AnswerParser, ReadsAsEachRuleDoes) {
  const Case cases[] = {
      {"A", 'A', 'A', 'A'},
      {"\n\n B \n", 'B', 'B', 'B'},
      {"C'", 'C', '-', 'C'},  // the prompt's open quote, closed
      {"'D'", '-', '-', '-'},
      {"A.", 'A', '-', '-'},
      {"**A**", '-', '-', '-'},
      {"Answer: B", 'A', 'B', '-'},  // first_char takes the A of Answer
      {"The answer is D", '-', 'D', '-'},
      {"B\nBecause of vitamin C", 'B', 'C', '-'},  // last_char takes the vitamin
      {"<think>\nhm\n</think>\nA", '-', 'A', '-'},
      {"a", '-', '-', '-'},
      {"E", '-', '-', '-'},
      {"AB", 'A', 'B', '-'},
      {"", '-', '-', '-'},
      {" \n\t", '-', '-', '-'},
      {"\xC3\x84", '-', '-', '-'},  // a letter whose last byte is not its own
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.text);
    EXPECT_EQ(Read(AnswerParser::kFirstChar, c.text), c.first);
    EXPECT_EQ(Read(AnswerParser::kLastChar, c.text), c.last);
    EXPECT_EQ(Read(AnswerParser::kStrict, c.text), c.strict);
  }
}

TEST(AnswerParser, NamesAreDistinct) {
  EXPECT_EQ(AllParsers().size(), 4u);
  EXPECT_EQ(ParserName(AnswerParser::kFirstChar), "first_char");
  EXPECT_EQ(ParserName(AnswerParser::kLastChar), "last_char");
  EXPECT_EQ(ParserName(AnswerParser::kStrict), "strict");
}

TEST(ChoicePrompt, IsTheBenchmarksToTheByte) {
  EXPECT_EQ(ChoicePrompt("Which?", {"one", "two", "three", "four"}),
            "There is a single choice question. Answer the question by replying A, B, C, D. "
            "No other answers are accepted. Just the letter.\n"
            "Question: Which?\n"
            "A. one\n"
            "B. two\n"
            "C. three\n"
            "D. four\n"
            "Answer: '");
}

}  // namespace
}  // namespace tandem::eval
