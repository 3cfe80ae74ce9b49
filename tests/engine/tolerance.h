// How far logits may be from float64 golden logits, computed from roundings and the model's own
// condition number, and how a golden model is run. Shared by the tests that hold a GPU worker,
// alone or in a cluster, against tests/golden/logits.
//
// How large may the difference be? The tolerance is computed, not tuned:
//
//   delta = kLambda * u * sqrt(n) * kappa      (relative, in the 2-norm of a row of logits)
//
// u      unit roundoff: 2^-24 in f32 precision, 2^-9 in bf16.
// n      roundings that pile up on the way from embedding to logits. Rounding errors behave like
// independent random numbers of
//        size u, so n of them add up as sqrt(n) (Higham and Mary, "A New Approach to Probabilistic
//        Rounding Error Analysis", 2019, theorem 2.4; kLambda there is the confidence, and the
//        factor for the largest of many). f32: a sum over K in 16 lanes has K / 16 + 4 additions
//        after K products; the attention sum runs over one key after the
//             other. Per layer: q, kv_a, kv_b twice, o, gate, up, down and scores (9 contractions),
//             two norms, the keys, 30 for softmax, SwiGLU, rope, router and residuals.
//        bf16: f32 sums count for nothing beside the roundings of activations to bf16 (13 per
//        layer) and of the weights
//             (9 matrices per layer), plus embedding, final norm and head.
// kappa  how much the network amplifies a relative error of its input: measured on the model itself
// in f32, by changing
//        every embedding by a relative 2^-12 at random signs, with the experts held fixed. It is
//        the norm-wise condition number, in which depth and the norms of the weights enter.
#pragma once

#include <utility>
#include <vector>

#include "tests/engine/harness.h"

namespace tandem::gpu_worker {

// 2-norm of a row of logits.
double Norm(const std::vector<double>& v);
std::vector<double> Minus(const std::vector<float>& a, const std::vector<double>& b);

// Roundings on the way from embedding to logits in bf16 (n above).
double RoundingsBf16(const ModelConfig& c);

// kappa above, the largest over the rows.
double Kappa(const GoldenModel& golden);

// delta above in f32 precision.
double ToleranceF32(const GoldenModel& golden);

// Gap between the two largest, and the index of the largest.
std::pair<double, size_t> Top(const std::vector<double>& row);

// Prompt as one prefill piece, then the generated tokens one decode row at a time. `forced`: with
// the oracle's experts; `choices`, when not null, receives the chosen ones.
LogitRows RunGolden(Harness& harness, const GoldenModel& golden, bool forced,
                    std::vector<RouterChoice>* choices);

}  // namespace tandem::gpu_worker
