#include "bench/layer_run.h"

#include <algorithm>
#include <cmath>
#include <random>

#include "absl/time/time.h"
#include "lib/base/clock.h"
#include "lib/kernels/expert_grid.h"
#include "lib/tensor/codec.h"

namespace tandem::bench {
namespace {

double Seconds() { return absl::ToDoubleSeconds(base::RealClock().Monotonic()); }

int GridExponentOf(const float* row, int64_t count, int experts) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(row[i]));
  return kernels::GridExponent(largest, 1.0f, experts);
}

}  // namespace

LayerRun::LayerRun(const kernels::KernelTable& table, base::ThreadPool* pool,
                   const std::vector<float>& x, int64_t hidden, int experts)
    : hidden_(hidden), x_(x.size()), sums_(x.size()), flags_(x.size() / hidden), ffn_(table, pool) {
  std::transform(x.begin(), x.end(), x_.begin(), F32ToBF16);
  batch_.grid_limit = kernels::GridLimit(experts);
  for (int64_t r = 0; r < static_cast<int64_t>(flags_.size()); ++r) {
    const float* row = x.data() + r * hidden;
    batch_.rows.push_back({reinterpret_cast<const std::byte*>(&x_[r * hidden]),
                           GridExponentOf(row, hidden, experts), &sums_[r * hidden], &flags_[r]});
    for (int e = 0; e < experts; ++e)
      batch_.pairs.push_back({r, static_cast<uint32_t>(e), 1.0f / static_cast<float>(experts)});
  }
}

double LayerRun::Run(const ExpertSet& set, int first) {
  std::fill(sums_.begin(), sums_.end(), 0);
  std::fill(flags_.begin(), flags_.end(), uint8_t{0});
  const double start = Seconds();
  ffn_.Run(batch_, [&](uint32_t expert) { return &set.expert(first + static_cast<int>(expert)); });
  return Seconds() - start;
}

std::vector<float> LayerRun::Output() const {
  std::vector<float> out(sums_.size());
  for (size_t i = 0; i < out.size(); ++i)
    out[i] = kernels::GridDecode(sums_[i], batch_.rows[i / hidden_].grid_exponent);
  return out;
}

std::vector<float> RandomInputs(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  std::generate(values.begin(), values.end(), [&] { return normal(random); });
  return values;
}

}  // namespace tandem::bench
