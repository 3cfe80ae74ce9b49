// Two runs over the same questions, compared question by question: which answers flipped, how large
// the difference may be, whether chance explains it, and what was too small to be seen at all.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"
#include "eval_client/report/journal.h"
#include "eval_client/report/manifest.h"
#include "eval_client/stats/wilson.h"
#include "eval_client/suites/answer_parser.h"

namespace tandem::eval {

// Questions by who answered them rightly. Those that failed or are missing on either side are left
// out of everything.
struct Paired {
  int64_t both = 0;
  int64_t only_this = 0;
  int64_t only_reference = 0;
  int64_t neither = 0;
  int64_t left_out = 0;

  int64_t compared() const { return both + only_this + only_reference + neither; }
  int64_t flips() const { return only_this + only_reference; }
  // Share right in this run minus share right in the reference; 0 without questions.
  double difference() const;
};

// The same in the probabilities of the letters, over the questions where both runs have them.
struct LetterComparison {
  int64_t questions = 0;
  double divergence = 0.0;       // mean KL(reference || this), nats
  Interval divergence_interval;  // bootstrap, 95 %
  int64_t same_best = 0;         // questions with the same most likely letter
  Interval same_best_interval;   // Wilson, 95 %
};

struct Comparison {
  Paired paired;
  Interval difference_interval;  // of paired.difference(): bootstrap over questions, 95 %
  double p = 1.0;                // McNemar, exact, two-sided
  double p_holm = 1.0;           // after correction, where it is one of a family; else p
  // Smallest true difference found in 80 % of repetitions at the 5 % level, given as many flips
  // (stats/detectable.h).
  double detectable = 1.0;
  std::optional<LetterComparison> letters;  // none when no question has them in both runs
};

// `records` and `reference` must not repeat an id.
Comparison Compare(const std::vector<Record>& records, const std::vector<Record>& reference,
                   AnswerParser parser);

// Corrects the p values of comparisons a reader looks at together (stats/holm.h).
void CorrectFamily(const std::vector<Comparison*>& family);

// FAILED_PRECONDITION when the runs asked different questions.
absl::Status CheckSameQuestions(const Manifest& manifest, const Manifest& reference);

}  // namespace tandem::eval
