// How far apart two models are on a question of lettered choices, seen in the probabilities they
// give the letters rather than in which one they happened to say: a format that moves every
// probability a little shows here long before it shows in a score.
#pragma once

#include <vector>

namespace tandem::eval {

// Kullback-Leibler divergence KL(reference || other) in nats between the two distributions over the
// letters: each given as natural-log probabilities of the same letters and renormalised over them
// (S. Kullback and R. A. Leibler, "On Information and Sufficiency", 1951). Never negative beyond
// rounding. CHECKs equal sizes of at least 1.
double LetterDivergence(const std::vector<float>& reference, const std::vector<float>& other);

// Index of the most likely letter, the first of equals. CHECKs that there is one.
int BestLetter(const std::vector<float>& logprobs);

}  // namespace tandem::eval
