// Our statistics against scipy's and statsmodels', on the random cases of stats.json.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <fstream>
#include <string>
#include <vector>

#include "eval_client/stats/bootstrap.h"
#include "eval_client/stats/detectable.h"
#include "eval_client/stats/holm.h"
#include "eval_client/stats/letters.h"
#include "eval_client/stats/mcnemar.h"
#include "eval_client/stats/wilson.h"
#include "nlohmann/json.hpp"

namespace tandem::eval {
namespace {

using Json = nlohmann::json;

// Both sides compute in f64 by different ways of a few thousand operations at most: 1e-10 is 5e5
// of its roundings.
constexpr double kRoundings = 1e-10;

const Json& Cases(const char* kind) {
  static const Json* const all = [] {
    const char* root = std::getenv("TANDEM_SOURCE_DIR");
    std::ifstream file(std::string(root == nullptr ? "." : root) +
                       "/tests/golden/stats/stats.json");
    return new Json(Json::parse(file));
  }();
  return all->at(kind);
}

TEST(StatsGolden, Wilson) {
  for (const Json& c : Cases("wilson")) {
    const Interval interval = WilsonInterval95(c["successes"], c["trials"]);
    EXPECT_NEAR(interval.low, c["low"].get<double>(), kRoundings) << c;
    EXPECT_NEAR(interval.high, c["high"].get<double>(), kRoundings) << c;
  }
}

TEST(StatsGolden, McNemar) {
  for (const Json& c : Cases("mcnemar")) {
    EXPECT_NEAR(McNemarExactP(c["only_first"], c["only_second"]), c["p"].get<double>(), kRoundings)
        << c;
  }
}

TEST(StatsGolden, Holm) {
  for (const Json& c : Cases("holm")) {
    const std::vector<double> adjusted = HolmAdjusted(c["p"].get<std::vector<double>>());
    const std::vector<double> expected = c["adjusted"];
    ASSERT_EQ(adjusted.size(), expected.size());
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(adjusted[i], expected[i], kRoundings);
  }
}

TEST(StatsGolden, Bootstrap) {
  for (const Json& c : Cases("bootstrap")) {
    const std::vector<double> values = c["values"];
    bool whole = true;
    for (const double value : values) whole = whole && value == std::floor(value);
    // Six times the bounds' own scatter between seeds; means of whole numbers come in steps of one
    // part in the number of values, and a bound may fall on the next one.
    const double tolerance =
        6.0 * c["scatter"].get<double>() + (whole ? 1.0 / static_cast<double>(values.size()) : 0.0);
    const Interval interval = BootstrapMean95(values, /*seed=*/3);
    EXPECT_NEAR(interval.low, c["low"].get<double>(), tolerance);
    EXPECT_NEAR(interval.high, c["high"].get<double>(), tolerance);
  }
}

TEST(StatsGolden, Detectable) {
  for (const Json& c : Cases("detectable")) {
    EXPECT_NEAR(SmallestDetectableDifference(c["questions"], c["discordant"]),
                c["difference"].get<double>(), 1e-9)
        << c;
    // What the figure promises, by exact enumeration in scipy rather than by the same formula.
    EXPECT_NEAR(c["power"].get<double>(), 0.8, 0.02) << c;
  }
}

TEST(StatsGolden, Letters) {
  for (const Json& c : Cases("letters")) {
    EXPECT_NEAR(LetterDivergence(c["reference"], c["other"]), c["divergence"].get<double>(),
                kRoundings)
        << c;
  }
}

}  // namespace
}  // namespace tandem::eval
