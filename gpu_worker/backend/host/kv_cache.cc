#include "gpu_worker/backend/host/kv_cache.h"

#include <cstring>

#include "gpu_worker/backend/host/bf16.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker {

KvCache::KvCache(Precision precision, int64_t layers, int64_t pages, int64_t row_dim)
    : precision_(precision), pages_(pages), row_dim_(row_dim) {
  const size_t value_bytes = precision == Precision::kF32 ? sizeof(float) : sizeof(uint16_t);
  for (int64_t i = 0; i < layers; ++i) {
    layers_.emplace_back(
        std::calloc(static_cast<size_t>(pages * kPageTokens * row_dim), value_bytes));
    TANDEM_CHECK(layers_.back() != nullptr);
  }
}

void KvCache::Write(int64_t layer, uint32_t page, int64_t slot, const float* row) {
  TANDEM_CHECK_LT(static_cast<int64_t>(page), pages_);
  if (precision_ == Precision::kF32) {
    float* dst = static_cast<float*>(layers_[layer].get()) + Offset(page, slot);
    std::memcpy(dst, row, row_dim_ * sizeof(float));
    return;
  }
  uint16_t* dst = static_cast<uint16_t*>(layers_[layer].get()) + Offset(page, slot);
  for (int64_t i = 0; i < row_dim_; ++i) dst[i] = Bf16Bits(row[i]);
}

void KvCache::Read(int64_t layer, uint32_t page, int64_t tokens, float* dst) const {
  TANDEM_CHECK_LT(static_cast<int64_t>(page), pages_);
  const int64_t count = tokens * row_dim_;
  if (precision_ == Precision::kF32) {
    const float* src = static_cast<const float*>(layers_[layer].get()) + Offset(page, 0);
    std::memcpy(dst, src, count * sizeof(float));
    return;
  }
  const uint16_t* src = static_cast<const uint16_t*>(layers_[layer].get()) + Offset(page, 0);
  for (int64_t i = 0; i < count; ++i) dst[i] = Bf16Value(src[i]);
}

}  // namespace tandem::gpu_worker
