// The expected numbers are CPython 3.11's: random.seed(s) and then random.getrandbits(b) or
// random.shuffle(list(range(n))).
#include "eval_client/suites/python_random.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>
#include <set>
#include <string>

#include "absl/strings/str_join.h"
#include "eval_client/suites/digest.h"

namespace tandem::eval {
namespace {

using testing::ElementsAre;

std::vector<uint32_t> Draws(uint64_t seed, int bits, int count) {
  PythonRandom random(seed);
  std::vector<uint32_t> draws(count);
  for (uint32_t& draw : draws) draw = random.GetRandBits(bits);
  return draws;
}

std::vector<int> Shuffled(uint64_t seed, int count) {
  std::vector<int> items(count);
  std::iota(items.begin(), items.end(), 0);
  PythonRandom(seed).Shuffle(items);
  return items;
}

std::string DigestOfFirst1000(const std::vector<int>& items) {
  return Sha256Hex(absl::StrJoin(items.begin(), items.begin() + 1000, ","));
}

TEST(PythonRandom, DrawsAsPythonDoes) {
  EXPECT_THAT(Draws(42, 32, 5),
              ElementsAre(2746317213u, 478163327u, 107420369u, 3184935163u, 1181241943u));
  EXPECT_THAT(Draws(0, 32, 3), ElementsAre(3626764237u, 1654615998u, 3255389356u));
  EXPECT_THAT(Draws(42, 5, 10), ElementsAre(20, 3, 0, 23, 8, 7, 7, 4, 23, 3));
}

TEST(PythonRandom, SeedsOfTwoDigitsAreKeysOfTwoWords) {
  EXPECT_THAT(Draws((uint64_t{1} << 40) + 7, 32, 3),
              ElementsAre(2635837658u, 3209733218u, 3500038837u));
}

TEST(PythonRandom, ShufflesAsPythonDoes) {
  EXPECT_THAT(Shuffled(42, 10), ElementsAre(7, 3, 2, 8, 5, 6, 9, 4, 0, 1));
  EXPECT_THAT(Shuffled(7, 1), ElementsAre(0));
  EXPECT_TRUE(Shuffled(7, 0).empty());
}

TEST(PythonRandom, ShufflesAllOfMmluAsTheBenchmarkDoes) {
  const std::vector<int> items = Shuffled(42, 14042);
  EXPECT_THAT(std::vector<int>(items.begin(), items.begin() + 20),
              ElementsAre(10856, 10247, 7410, 3581, 13087, 3504, 2383, 11496, 1058, 6013, 12143,
                          10932, 5099, 12772, 8717, 4750, 9520, 5691, 565, 11656));
  EXPECT_THAT(std::vector<int>(items.begin() + 995, items.begin() + 1000),
              ElementsAre(2874, 4217, 10720, 13336, 12138));
  EXPECT_EQ(DigestOfFirst1000(items),
            "0dc796654413f4a4f34478e31bb1967bb7756bb1a08dc9dd0db6b1027f7651fb");
}

TEST(PythonRandom, ShufflesAllOfMmluProAsTheBenchmarkDoes) {
  const std::vector<int> items = Shuffled(42, 12032);
  EXPECT_THAT(std::vector<int>(items.begin() + 995, items.begin() + 1000),
              ElementsAre(6629, 7287, 1963, 2633, 2873));
  EXPECT_EQ(DigestOfFirst1000(items),
            "7ed17312490ab31c380c584b4811c73aac7b74a5e3d440360b3fccb90d378d17");
}

TEST(PythonRandom, RandBelowCoversItsRangeAndNothingElse) {
  PythonRandom random(1);
  std::set<uint32_t> seen;
  for (int i = 0; i < 500; ++i) seen.insert(random.RandBelow(5));
  EXPECT_THAT(seen, ElementsAre(0, 1, 2, 3, 4));
  EXPECT_DEATH(random.RandBelow(0), "0 vs 0");
}

}  // namespace
}  // namespace tandem::eval
