// The forward pass against float64 logits of five tiny models (tests/golden/make_logits.py).
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
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "tests/engine/harness.h"

namespace tandem::gpu_worker {
namespace {

// 3 for the confidence of a single row (three standard deviations), 2 because kappa is one sample
// of a random direction.
constexpr double kLambda = 6;

double Norm(const std::vector<double>& v) {
  double sum = 0;
  for (const double x : v) sum += x * x;
  return std::sqrt(sum);
}

std::vector<double> Minus(const std::vector<float>& a, const std::vector<double>& b) {
  std::vector<double> d(b.size());
  for (size_t i = 0; i < b.size(); ++i) d[i] = a[i] - b[i];
  return d;
}

double RoundingsF32(const ModelConfig& c, int64_t keys) {
  const int64_t k_max = std::max({c.hidden_size, c.intermediate_size, c.kv_lora_rank, c.q_lora_rank,
                                  c.num_attention_heads * c.v_head_dim, c.moe_intermediate_size});
  const double contraction = static_cast<double>(k_max) / 16 + 5;
  const double layer = 11 * contraction + static_cast<double>(keys) + 30;
  return c.num_hidden_layers * layer + 2 * contraction;
}

double RoundingsBf16(const ModelConfig& c) { return c.num_hidden_layers * (13 + 9) + 4.0; }

// The oracle's experts in the form of RouterProbe for rows [begin, end).
std::vector<std::vector<uint32_t>> ForcedExperts(const GoldenModel& golden, size_t begin,
                                                 size_t end) {
  std::vector<std::vector<uint32_t>> forced(golden.weights.config.num_hidden_layers);
  for (const auto& [layer, rows] : golden.experts) {
    for (size_t t = begin; t < end; ++t) {
      forced[layer].insert(forced[layer].end(), rows[t].begin(), rows[t].end());
    }
  }
  return forced;
}

std::vector<RouterChoice> Append(std::vector<RouterChoice> all,
                                 const std::vector<RouterChoice>& more) {
  if (all.empty()) return more;
  for (size_t layer = 0; layer < all.size(); ++layer) {
    all[layer].expert_ids.insert(all[layer].expert_ids.end(), more[layer].expert_ids.begin(),
                                 more[layer].expert_ids.end());
  }
  return all;
}

// Prompt as one prefill piece, then the generated tokens one decode row at a time.
LogitRows RunGolden(Harness& harness, const GoldenModel& golden, bool forced,
                    std::vector<RouterChoice>* choices) {
  LogitRows logits;
  size_t begin = 0;
  while (begin < golden.tokens.size()) {
    const bool prefill = begin == 0;
    const size_t end = prefill ? golden.prompt_tokens : begin + 1;
    const auto experts = ForcedExperts(golden, begin, end);
    std::vector<RouterChoice> chosen;
    RouterProbe probe{forced ? &experts : nullptr, &chosen};
    const std::vector<uint32_t> tokens(golden.tokens.begin() + begin, golden.tokens.begin() + end);
    for (std::vector<float>& row :
         harness.Run({{0, prefill ? RowKind::kPrefill : RowKind::kDecode, tokens}}, probe)) {
      logits.push_back(std::move(row));
    }
    if (choices != nullptr) *choices = Append(std::move(*choices), chosen);
    begin = end;
  }
  return logits;
}

// The golden model with every embedding changed by a relative `size` at random signs.
struct Perturbed {
  ModelWeights weights;
  std::vector<float> embedding;
};

std::unique_ptr<Perturbed> Perturb(const GoldenModel& golden, float size) {
  auto p = std::make_unique<Perturbed>();
  p->weights = golden.weights;
  const Matrix& from = golden.weights.embedding;
  p->embedding.resize(from.rows() * from.cols());
  std::mt19937_64 random(7);
  for (int64_t r = 0; r < from.rows(); ++r) {
    float* row = p->embedding.data() + r * from.cols();
    DequantizeMatrixRow(from, r, row);
    for (int64_t c = 0; c < from.cols(); ++c) row[c] *= (random() & 1) != 0 ? 1 + size : 1 - size;
  }
  TensorView& view = p->weights.embedding.view;
  view.dtype = DType::kF32;
  view.data = reinterpret_cast<const std::byte*>(p->embedding.data());
  view.size_bytes = static_cast<int64_t>(p->embedding.size() * sizeof(float));
  return p;
}

// Largest amplification over the rows.
double Kappa(const GoldenModel& golden) {
  constexpr float kSize = 1.0f / 4096;
  const auto perturbed = Perturb(golden, kSize);
  Harness harness(perturbed->weights, {});
  const LogitRows logits = RunGolden(harness, golden, /*forced=*/true, nullptr);
  double kappa = 1;
  for (size_t t = 0; t < logits.size(); ++t) {
    kappa =
        std::max(kappa, Norm(Minus(logits[t], golden.logits[t])) / Norm(golden.logits[t]) / kSize);
  }
  return kappa;
}

// Gap between the two largest, and the index of the largest.
std::pair<double, size_t> Top(const std::vector<double>& row) {
  std::vector<double> sorted = row;
  std::partial_sort(sorted.begin(), sorted.begin() + 2, sorted.end(), std::greater<>());
  return {sorted[0] - sorted[1],
          static_cast<size_t>(std::max_element(row.begin(), row.end()) - row.begin())};
}

class LogitsTest : public testing::TestWithParam<std::string> {};

void ExpectSameExperts(const GoldenModel& golden, const std::vector<RouterChoice>& choices) {
  for (const auto& [layer, rows] : golden.experts) {
    const int64_t k = golden.weights.config.num_experts_per_tok;
    ASSERT_EQ(choices[layer].expert_ids.size(), rows.size() * k);
    for (size_t t = 0; t < rows.size(); ++t) {
      std::vector<uint32_t> ids(choices[layer].expert_ids.begin() + t * k,
                                choices[layer].expert_ids.begin() + (t + 1) * k);
      std::sort(ids.begin(), ids.end());
      EXPECT_EQ(ids, rows[t]) << "layer " << layer << " token " << t;
    }
  }
}

void CheckF32(const GoldenModel& golden, AttentionKernel attention) {
  HarnessOptions options;
  options.attention = attention;
  options.workers = 2;
  Harness harness(golden.weights, options);
  std::vector<RouterChoice> choices;
  const LogitRows logits = RunGolden(harness, golden, /*forced=*/false, &choices);
  ExpectSameExperts(golden, choices);
  const double n = RoundingsF32(golden.weights.config, static_cast<int64_t>(golden.tokens.size()));
  const double delta = kLambda * std::ldexp(1.0, -24) * std::sqrt(n) * Kappa(golden);
  double worst = 0;
  ASSERT_EQ(logits.size(), golden.logits.size());
  for (size_t t = 0; t < logits.size(); ++t) {
    const double size = Norm(golden.logits[t]);
    const double error = Norm(Minus(logits[t], golden.logits[t])) / size;
    worst = std::max(worst, error);
    EXPECT_LE(error, delta) << "token " << t;
    const auto [gap, best] = Top(golden.logits[t]);
    const size_t found = std::max_element(logits[t].begin(), logits[t].end()) - logits[t].begin();
    if (gap > 2 * delta * size) {
      EXPECT_EQ(found, best) << "token " << t;
    }
  }
  printf("  %s: relative error %.3g, tolerance %.3g (%.0f%%)\n", golden.name.c_str(), worst, delta,
         100 * worst / delta);
  EXPECT_LT(delta, 1e-3) << "the tolerance has become too wide to prove anything";
}

TEST_P(LogitsTest, F32Flash) { CheckF32(LoadGolden(GetParam()), AttentionKernel::kFlash); }
TEST_P(LogitsTest, F32Reference) { CheckF32(LoadGolden(GetParam()), AttentionKernel::kReference); }

double KlDivergence(const std::vector<double>& p_logits, const std::vector<float>& q_logits) {
  const auto log_sum = [](const auto& logits) {
    const double max = *std::max_element(logits.begin(), logits.end());
    double sum = 0;
    for (const double x : logits) sum += std::exp(x - max);
    return max + std::log(sum);
  };
  const double lp = log_sum(p_logits), lq = log_sum(q_logits);
  double kl = 0;
  for (size_t i = 0; i < p_logits.size(); ++i) {
    kl += std::exp(p_logits[i] - lp) * ((p_logits[i] - lp) - (q_logits[i] - lq));
  }
  return kl;
}

// With logits off by at most a, the divergence is at most a^2 / 2: it is half the variance of the
// difference under a distribution between the two (Hoeffding's lemma gives (2a)^2 / 8). The error
// of one logit has the size |error of the row| / sqrt(vocab); a is three times that, as if every
// likely token were three standard deviations off.
void CheckBf16(const GoldenModel& golden, AttentionKernel attention) {
  HarnessOptions options;
  options.precision = Precision::kBf16;
  options.attention = attention;
  options.workers = 2;
  Harness harness(golden.weights, options);
  const LogitRows logits = RunGolden(harness, golden, /*forced=*/true, nullptr);
  // A value is off by u / sqrt(3) in the mean square when every position within half a unit is
  // equally likely.
  const double row_error = std::ldexp(1.0, -9) / std::sqrt(3.0) *
                           std::sqrt(RoundingsBf16(golden.weights.config)) * Kappa(golden);
  double worst = 0, mean = 0;
  for (size_t t = 0; t < logits.size(); ++t) {
    const double a = 3 * row_error * Norm(golden.logits[t]) / std::sqrt(double(logits[t].size()));
    const double kl = KlDivergence(golden.logits[t], logits[t]);
    EXPECT_LE(kl, a * a / 2) << "token " << t;
    worst = std::max(worst, kl / (a * a / 2));
    mean += kl / static_cast<double>(logits.size());
  }
  printf("  %s: mean KL %.3g nats, worst %.0f%% of its bound\n", golden.name.c_str(), mean,
         100 * worst);
}

TEST_P(LogitsTest, Bf16Flash) { CheckBf16(LoadGolden(GetParam()), AttentionKernel::kFlash); }
TEST_P(LogitsTest, Bf16Reference) {
  CheckBf16(LoadGolden(GetParam()), AttentionKernel::kReference);
}

INSTANTIATE_TEST_SUITE_P(Golden, LogitsTest, testing::ValuesIn(GoldenNames()),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tandem::gpu_worker
