#include "gpu_worker/backend/host/rope.h"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace tandem::gpu_worker {
namespace {

double YarnMscale(double factor, double mscale) {
  return factor <= 1.0 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

// The (fractional) frequency index whose wave turns `turns` times over the original context.
double IndexOfTurns(double turns, const ModelConfig& config) {
  const double context = static_cast<double>(config.yarn.original_max_position_embeddings);
  return config.qk_rope_head_dim * std::log(context / (turns * 2.0 * std::numbers::pi)) /
         (2.0 * std::log(config.rope_theta));
}

std::vector<double> PlainFrequencies(const ModelConfig& config) {
  std::vector<double> frequencies(config.qk_rope_head_dim / 2);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    frequencies[i] = std::pow(config.rope_theta, -2.0 * i / config.qk_rope_head_dim);
  }
  return frequencies;
}

// Fast waves (low index) keep their frequency, slow ones are stretched by `factor`, a linear ramp
// lies between.
std::vector<double> YarnFrequencies(const ModelConfig& config) {
  std::vector<double> frequencies = PlainFrequencies(config);
  const double last = config.qk_rope_head_dim - 1;
  const double low = std::max(std::floor(IndexOfTurns(config.yarn.beta_fast, config)), 0.0);
  double high = std::min(std::ceil(IndexOfTurns(config.yarn.beta_slow, config)), last);
  if (low == high)
    high += 0.001;  // a step instead of a division by zero, the same width as in the original
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double stretched = std::clamp((i - low) / (high - low), 0.0, 1.0);
    frequencies[i] *= stretched / config.yarn.factor + (1.0 - stretched);
  }
  return frequencies;
}

}  // namespace

Rope::Rope(const ModelConfig& config)
    : half_(config.qk_rope_head_dim / 2), layout_(config.rope_layout), attention_factor_(1.0) {
  const YarnConfig& yarn = config.yarn;
  inverse_frequencies_ = yarn.enabled ? YarnFrequencies(config) : PlainFrequencies(config);
  if (yarn.enabled) {
    attention_factor_ =
        YarnMscale(yarn.factor, yarn.mscale) / YarnMscale(yarn.factor, yarn.mscale_all_dim);
  }
}

RopeRows Rope::ForPositions(const std::vector<int64_t>& positions) const {
  RopeRows rows;
  rows.cos.reserve(positions.size() * half_);
  rows.sin.reserve(positions.size() * half_);
  for (const int64_t position : positions) {
    for (const double frequency : inverse_frequencies_) {
      const double angle = static_cast<double>(position) * frequency;
      rows.cos.push_back(static_cast<float>(std::cos(angle) * attention_factor_));
      rows.sin.push_back(static_cast<float>(std::sin(angle) * attention_factor_));
    }
  }
  return rows;
}

void Rope::Apply(const RopeRows& rows, int64_t row, float* v) const {
  const float* cos = rows.cos.data() + row * half_;
  const float* sin = rows.sin.data() + row * half_;
  const bool interleaved = layout_ == RopeLayout::kInterleaved;
  for (int64_t i = 0; i < half_; ++i) {
    float& a = interleaved ? v[2 * i] : v[i];
    float& b = interleaved ? v[2 * i + 1] : v[i + half_];
    const float rotated_a = a * cos[i] - b * sin[i];
    const float rotated_b = b * cos[i] + a * sin[i];
    a = rotated_a;
    b = rotated_b;
  }
}

}  // namespace tandem::gpu_worker
