#include "gpu_worker/backend/best_of_row.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace tandem::gpu_worker {
namespace {

// Logits that are looked at together: most blocks have nothing to offer, which two maxima say.
constexpr int64_t kBlock = 512;

constexpr int32_t kInfinityBits = 0x7f800000;

// An integer in the order of the values; both zeros are one. Integer maxima become vector code,
// those of floats do not.
inline int32_t OrderOf(float value) {
  const int32_t bits = std::bit_cast<int32_t>(value + 0.0f);  // -0 becomes +0
  return bits ^ ((bits >> 31) & 0x7fffffff);
}

struct Maxima {
  int32_t order = std::numeric_limits<int32_t>::min();
  int32_t magnitude = 0;  // bits without the sign; kInfinityBits and more: not finite
};

Maxima MaximaOf(const float* logits, int64_t count) {
  Maxima maxima;
  for (int64_t i = 0; i < count; ++i) {
    const int32_t order = OrderOf(logits[i]);
    const int32_t magnitude = std::bit_cast<int32_t>(logits[i]) & 0x7fffffff;
    maxima.order = order > maxima.order ? order : maxima.order;
    maxima.magnitude = magnitude > maxima.magnitude ? magnitude : maxima.magnitude;
  }
  return maxima;
}

}  // namespace

uint32_t BestOfRow(std::span<const float> logits, uint32_t first_id, std::span<TokenLogit> best) {
  std::fill(best.begin(), best.end(), kNoTokenLogit);
  const int64_t count = static_cast<int64_t>(logits.size());
  for (int64_t begin = 0; begin < count; begin += kBlock) {
    const std::span<const float> block = logits.subspan(begin, std::min(kBlock, count - begin));
    const Maxima maxima = MaximaOf(block.data(), static_cast<int64_t>(block.size()));
    const uint32_t block_id = first_id + static_cast<uint32_t>(begin);
    if (maxima.magnitude >= kInfinityBits) {
      const auto bad =
          std::find_if(block.begin(), block.end(), [](float v) { return !std::isfinite(v); });
      return block_id + static_cast<uint32_t>(bad - block.begin());
    }
    if (maxima.order <= OrderOf(best.back().logit)) continue;
    for (size_t i = 0; i < block.size(); ++i) {
      // Ids ascend: an equal that was there before stays in front.
      if (block[i] <= best.back().logit) continue;
      const TokenLogit token = {block_id + static_cast<uint32_t>(i), block[i]};
      const auto place = std::upper_bound(best.begin(), best.end(), token, MoreLikely);
      std::move_backward(place, best.end() - 1, best.end());
      *place = token;
    }
  }
  return kNoToken;
}

}  // namespace tandem::gpu_worker
