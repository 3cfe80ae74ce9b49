#include "lib/model/text/stop_matcher.h"

#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace tandem {
namespace {

struct Fed {
  std::string text;
  int matched;
};

Fed Feed(const std::vector<std::string>& stops, const std::vector<std::string>& chunks) {
  StopMatcher matcher(stops);
  Fed run{"", -1};
  for (const std::string& chunk : chunks) run.text += matcher.Push(chunk).text;
  run.matched = matcher.matched();
  if (run.matched < 0) run.text += matcher.Finish();
  return run;
}

TEST(StopMatcher, HoldsBackWhatMayBecomeAStop) {
  StopMatcher matcher({"STOP"});
  EXPECT_EQ(matcher.Push("go ST").text, "go ");
  EXPECT_EQ(matcher.Push("A").text, "STA");
  EXPECT_EQ(matcher.Push("S").text, "");
  EXPECT_EQ(matcher.Push("T").text, "");
  const StopResult last = matcher.Push("OP and more");
  EXPECT_EQ(last.text, "");
  EXPECT_EQ(last.matched, 0);
  EXPECT_EQ(matcher.Push("x").text, "");
}

TEST(StopMatcher, GivesBackTheHeldTextAtTheEnd) {
  EXPECT_EQ(Feed({"\n\n"}, {"a\n", "b", "\n"}).text, "a\nb\n");
}

TEST(StopMatcher, TheFirstBeginningWinsThenTheLongest) {
  const Fed run = Feed({"b", "abc", "ab"}, {"xxabcyy"});
  EXPECT_EQ(run.text, "xx");
  EXPECT_EQ(run.matched, 1);
}

TEST(StopMatcher, IgnoresEmptyStops) {
  const Fed run = Feed({"", "z"}, {"abz"});
  EXPECT_EQ(run.text, "ab");
  EXPECT_EQ(run.matched, 1);
  EXPECT_EQ(Feed({}, {"abc"}).text, "abc");
}

// Whatever the borders, with one stop string the text is what comes before its first occurrence.
TEST(StopMatcher, BordersDoNotMatter) {
  std::mt19937 rng(7);
  for (int round = 0; round < 3000; ++round) {
    const std::string stop = round % 3 == 0 ? "aab" : round % 3 == 1 ? "abab" : "aaa";
    std::string whole;
    std::vector<std::string> chunks;
    for (int i = 0; i < 12; ++i) {
      std::string chunk;
      for (uint32_t n = rng() % 4; n > 0; --n) chunk += rng() % 2 == 0 ? 'a' : 'b';
      whole += chunk;
      chunks.push_back(chunk);
    }
    const size_t at = whole.find(stop);
    const Fed run = Feed({stop}, chunks);
    EXPECT_EQ(run.text, whole.substr(0, at)) << whole;
    EXPECT_EQ(run.matched, at == std::string::npos ? -1 : 0) << whole;
  }
}

}  // namespace
}  // namespace tandem
