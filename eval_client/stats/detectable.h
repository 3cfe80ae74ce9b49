// What a comparison could have seen at all. "No significant difference" between two formats says
// little when only a difference of four points would have been noticed; so the table prints that
// figure beside the test.
#pragma once

#include <cstdint>

namespace tandem::eval {

// The smallest true difference of two accuracies over the same `questions`, as a share, that
// McNemar's test at 5 % two-sided finds in 80 % of repetitions, when the runs differ on the share
// `discordant` of the questions or, where that is less than the difference itself, on just as many
// as the difference takes, all one way (R. J. Connor, "Sample Size for Testing Differences in
// Proportions for the Paired-Sample Design", Biometrics 43, 1987). At most 1: not even that would
// be found. CHECKs questions >= 1 and discordant in [0, 1].
double SmallestDetectableDifference(int64_t questions, double discordant);

}  // namespace tandem::eval
