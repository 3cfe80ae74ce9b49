// Our answer parsers against a Python transcription of the published ones, on made-up answers that
// parsers/make_answers.py wrote with what the transcription reads in them.
#include <gtest/gtest.h>

#include <cstdlib>
#include <fstream>
#include <string>

#include "eval_client/suites/answer_parser.h"
#include "nlohmann/json.hpp"

namespace tandem::eval {
namespace {

using Json = nlohmann::json;

TEST(Parsers, AgreeWithTheTranscription) {
  const char* source = std::getenv("TANDEM_SOURCE_DIR");
  std::ifstream file(std::string(source ? source : ".") + "/tests/eval/parsers/answers.jsonl");
  int lines = 0;
  for (std::string line; std::getline(file, line); ++lines) {
    const Json answer = Json::parse(line);
    const std::string text = answer["text"];
    const int letters = answer.value("letters", 0);
    for (const auto& [name, expected] : answer["parsed"].items()) {
      const auto parser = ParserNamed(name);
      ASSERT_TRUE(parser.has_value()) << name;
      const auto parsed = ParseAnswer(*parser, text, letters);
      EXPECT_EQ(parsed ? Json(*parsed) : Json(), expected) << name << " on " << answer["text"];
      if (!answer.contains("right")) continue;
      const bool right = parsed && IsRight(*parser, *parsed, answer["gold"]);
      EXPECT_EQ(right, answer["right"][name]) << name << " on " << answer["text"];
    }
  }
  EXPECT_EQ(lines, 1200);
}

}  // namespace
}  // namespace tandem::eval
