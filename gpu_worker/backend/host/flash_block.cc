#include "gpu_worker/backend/host/flash_block.h"

#include <algorithm>

#include "lib/kernels/activation.h"
#include "lib/kernels/linear.h"

namespace tandem::gpu_worker {

void FlashState::Reset(int64_t pairs, int64_t latent) {
  max.assign(pairs, 0.0f);
  sum.assign(pairs, 0.0f);
  mean.resize(pairs * latent);
}

void LoadBlock(const AttentionArgs& args, uint32_t page, int64_t tokens, FlashScratch& scratch) {
  const AttentionShape& s = *args.shape;
  scratch.keys.assign(kPageTokens * s.key(), 0.0f);
  args.cache->Read(args.layer, page, tokens, scratch.keys.data());
  scratch.latents_t.resize(s.latent * kPageTokens);
  for (int64_t c = 0; c < s.latent; ++c) {
    float* column = scratch.latents_t.data() + c * kPageTokens;
    for (int64_t t = 0; t < kPageTokens; ++t) column[t] = scratch.keys[t * s.key() + c];
  }
}

namespace {

// Turns one pair's scores into exponentials, zero beyond `visible`; the sum runs in key order.
void SoftmaxBlock(float scale, int64_t visible, float* p, float* max, float* sum) {
  for (int64_t t = 0; t < visible; ++t) p[t] *= scale;
  *max = *std::max_element(p, p + visible);
  kernels::ExpShifted(p, *max, p, visible);
  *sum = 0;
  for (int64_t t = 0; t < visible; ++t) *sum += p[t];
  std::fill(p + visible, p + kPageTokens, 0.0f);
}

}  // namespace

void BlockState(const AttentionArgs& args, const float* latent_q, int64_t rows,
                const int64_t* visible, FlashScratch& scratch, FlashState& block) {
  const AttentionShape& s = *args.shape;
  const int64_t pairs = rows * s.heads;
  block.Reset(pairs, s.latent);
  scratch.p.resize(pairs * kPageTokens);
  kernels::LinearF32({.x = latent_q,
                      .x_stride = s.key(),
                      .w = scratch.keys.data(),
                      .y = scratch.p.data(),
                      .y_stride = kPageTokens,
                      .rows = pairs,
                      .cols = s.key(),
                      .n_begin = 0,
                      .n_end = kPageTokens});
  for (int64_t i = 0; i < pairs; ++i) {
    float* p = scratch.p.data() + i * kPageTokens;
    if (visible[i / s.heads] == 0) {
      std::fill_n(p, kPageTokens, 0.0f);
    } else {
      SoftmaxBlock(s.softmax_scale, visible[i / s.heads], p, &block.max[i], &block.sum[i]);
    }
  }
  kernels::LinearF32({.x = scratch.p.data(),
                      .x_stride = kPageTokens,
                      .w = scratch.latents_t.data(),
                      .y = block.mean.data(),
                      .y_stride = s.latent,
                      .rows = pairs,
                      .cols = kPageTokens,
                      .n_begin = 0,
                      .n_end = s.latent});
}

void MergePair(int64_t latent, const FlashState& block, int64_t j, FlashState& total, int64_t i) {
  if (block.sum[j] == 0.0f) return;
  const float* from = block.mean.data() + j * latent;
  float* to = total.mean.data() + i * latent;
  if (total.sum[i] == 0.0f) {
    total.max[i] = block.max[j];
    total.sum[i] = block.sum[j];
    std::copy_n(from, latent, to);
    return;
  }
  const float max = std::max(total.max[i], block.max[j]);
  const float keep = total.max[i] == max ? 1.0f : kernels::Exp(total.max[i] - max);
  const float add = block.max[j] == max ? 1.0f : kernels::Exp(block.max[j] - max);
  total.max[i] = max;
  total.sum[i] = total.sum[i] * keep + block.sum[j] * add;
  for (int64_t c = 0; c < latent; ++c) to[c] = to[c] * keep + from[c] * add;
}

}  // namespace tandem::gpu_worker
