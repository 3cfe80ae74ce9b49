// Intervals for what no formula covers: the difference of two runs over the same questions, or a
// mean divergence whose distribution is anything but normal. Questions are drawn again and again
// with replacement, each with all it got in both runs, and the middle 95 % of the means are kept.
#pragma once

#include <cstdint>
#include <vector>

#include "eval_client/stats/wilson.h"

namespace tandem::eval {

inline constexpr int kBootstrapResamples = 10000;

// The percentile interval at 95 % of the mean of `values`, one per question (B. Efron, "Bootstrap
// Methods: Another Look at the Jackknife", Annals of Statistics 7, 1979). Between the two order
// statistics next to a percentile it interpolates linearly, as numpy's default does. The same
// `seed` gives the same bounds on every machine. Bounds are in the unit of `values`, not clamped.
// CHECKs that there are values and at least 40 resamples.
Interval BootstrapMean95(const std::vector<double>& values, uint64_t seed,
                         int resamples = kBootstrapResamples);

// The value at share `q` of [0, 1] of the sorted `values`, linearly between neighbours.
double Quantile(const std::vector<double>& sorted, double q);

}  // namespace tandem::eval
