// The interval that goes with every accuracy we print: a score of 81 % from 1000 questions and one
// from 20 are different statements.
#pragma once

#include <cstdint>

namespace tandem::eval {

// Bounds of a share, both within [0, 1].
struct Interval {
  double low = 0.0;
  double high = 1.0;
};

// Wilson's score interval at 95 % for `successes` out of `trials` (E. B. Wilson, "Probable
// Inference, the Law of Succession, and Statistical Inference", JASA 22, 1927). Unlike the textbook
// p +- 2 sigma it stays within [0, 1] and is right for few trials and for shares near 0 and 1. No
// trials: [0, 1]. CHECKs 0 <= successes <= trials.
Interval WilsonInterval95(int64_t successes, int64_t trials);

}  // namespace tandem::eval
