// Rotary position embedding with YaRN scaling, as DeepSeek's modeling code defines it: interpolated
// and original frequencies blended by a ramp between two dimensions, cos and sin scaled by
// mscale(factor, mscale) / mscale(factor, mscale_all_dim). (YaRN: Peng et al., "YaRN: Efficient
// Context Window Extension of Large Language Models", 2023, sections 3.2 to 3.4.)
#pragma once

#include <cstdint>
#include <vector>

#include "lib/model/config.h"

namespace tandem::gpu_worker {

// cos and sin of one step's rows: [rows, rope_dim / 2] f32 each, the attention factor included.
struct RopeRows {
  std::vector<float> cos, sin;
};

class Rope {
 public:
  explicit Rope(const ModelConfig& config);

  RopeRows ForPositions(const std::vector<int64_t>& positions) const;
  // Rotates `v` [rope_dim] in place by row `row` of `rows`, pairs laid out as the config says.
  void Apply(const RopeRows& rows, int64_t row, float* v) const;

  const std::vector<double>& inverse_frequencies() const { return inverse_frequencies_; }
  double attention_factor() const { return attention_factor_; }

 private:
  int64_t half_;
  RopeLayout layout_;
  double attention_factor_;
  std::vector<double> inverse_frequencies_;  // [rope_dim / 2] radians per position
};

}  // namespace tandem::gpu_worker
