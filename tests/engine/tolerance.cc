#include "tests/engine/tolerance.h"

#include <algorithm>
#include <cmath>
#include <random>

namespace tandem::gpu_worker {
namespace {

// 3 for the confidence of a single row (three standard deviations), 2 because kappa is one sample
// of a random direction.
constexpr double kLambda = 6;

double RoundingsF32(const ModelConfig& c, int64_t keys) {
  const int64_t k_max = std::max({c.hidden_size, c.intermediate_size, c.kv_lora_rank, c.q_lora_rank,
                                  c.num_attention_heads * c.v_head_dim, c.moe_intermediate_size});
  const double contraction = static_cast<double>(k_max) / 16 + 5;
  const double layer = 11 * contraction + static_cast<double>(keys) + 30;
  return c.num_hidden_layers * layer + 2 * contraction;
}

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

}  // namespace

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

double RoundingsBf16(const ModelConfig& c) { return c.num_hidden_layers * (13 + 9) + 4.0; }

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

double ToleranceF32(const GoldenModel& golden) {
  const double n = RoundingsF32(golden.weights.config, static_cast<int64_t>(golden.tokens.size()));
  return kLambda * std::ldexp(1.0, -24) * std::sqrt(n) * Kappa(golden);
}

std::pair<double, size_t> Top(const std::vector<double>& row) {
  std::vector<double> sorted = row;
  std::partial_sort(sorted.begin(), sorted.begin() + 2, sorted.end(), std::greater<>());
  return {sorted[0] - sorted[1],
          static_cast<size_t>(std::max_element(row.begin(), row.end()) - row.begin())};
}

}  // namespace tandem::gpu_worker
