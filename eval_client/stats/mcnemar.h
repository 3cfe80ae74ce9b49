// Comparing two runs over the same questions. Two systems that answer the same questions are not
// independent, so their intervals may overlap while one is clearly better; only the questions on
// which they differ say anything.
#pragma once

#include <cstdint>

namespace tandem::eval {

// Two-sided p value of McNemar's exact test: `only_first` questions were right in the first run
// alone, `only_second` in the second alone. The chance of a split at least that uneven if each side
// were equally likely, from the binomial distribution with p = 1/2 (Q. McNemar, Psychometrika 12,
// 1947). 1 when both are 0.
double McNemarExactP(int64_t only_first, int64_t only_second);

}  // namespace tandem::eval
