// KvCache: the paged latent cache of multi-head latent attention. One cached token of one layer is
// its normed latent followed by its rotated rope key; heads share it. Page numbers come from the
// step plan and mean the same page in every layer.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <memory>
#include <vector>

#include "gpu_worker/backend/backend.h"

namespace tandem::gpu_worker {

class KvCache {
 public:
  // row_dim: kv_lora_rank + qk_rope_head_dim. Memory is zero and, on Linux, taken from the machine
  // when first written.
  KvCache(Precision precision, int64_t layers, int64_t pages, int64_t row_dim);

  static int64_t BytesPerToken(Precision precision, int64_t layers, int64_t row_dim) {
    return layers * row_dim * (precision == Precision::kF32 ? 4 : 2);
  }
  int64_t row_dim() const { return row_dim_; }
  int64_t pages() const { return pages_; }

  // Stores `row` [row_dim] f32 (bf16 numbers in bf16 precision) at `slot` of `page`.
  void Write(int64_t layer, uint32_t page, int64_t slot, const float* row);
  // Copies the first `tokens` slots of `page` to `dst` [tokens, row_dim] f32.
  void Read(int64_t layer, uint32_t page, int64_t tokens, float* dst) const;

 private:
  struct Free {
    void operator()(void* p) const { std::free(p); }
  };
  int64_t Offset(uint32_t page, int64_t slot) const {
    return (page * kPageTokens + slot) * row_dim_;
  }

  Precision precision_;
  int64_t pages_, row_dim_;
  std::vector<std::unique_ptr<void, Free>>
      layers_;  // each [pages, kPageTokens, row_dim] bf16 or f32
};

}  // namespace tandem::gpu_worker
