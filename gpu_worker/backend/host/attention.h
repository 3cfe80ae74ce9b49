// What the host's attention kernels share: the shapes of one layer and the entry points. Every
// kernel works through a row's keys from position 0 upwards, so a row's result depends on its own
// query and keys alone.
#pragma once

#include <cstdint>
#include <span>

#include "gpu_worker/backend/backend.h"
#include "gpu_worker/backend/host/attention_weights.h"
#include "gpu_worker/backend/host/kv_cache.h"
#include "lib/base/thread_pool.h"
#include "lib/model/config.h"

namespace tandem::gpu_worker {

struct AttentionShape {
  // own_heads: of the model's heads those that are computed here.
  AttentionShape(const ModelConfig& config, int64_t own_heads)
      : heads(own_heads),
        nope(config.qk_nope_head_dim),
        rope(config.qk_rope_head_dim),
        v(config.v_head_dim),
        latent(config.kv_lora_rank),
        softmax_scale(static_cast<float>(config.SoftmaxScale())) {}
  int64_t qk() const { return nope + rope; }
  int64_t key() const { return latent + rope; }  // one cached token

  int64_t heads, nope, rope, v, latent;
  float softmax_scale;
};

// One layer's attention over the segments of a step.
struct AttentionArgs {
  Precision precision = Precision::kBf16;
  const AttentionShape* shape = nullptr;
  const HeadProjections* heads = nullptr;
  const KvCache* cache = nullptr;
  int64_t layer = 0;
  const float* q = nullptr;   // [rows, heads, nope + rope], rope applied
  float* attended = nullptr;  // [rows, heads, v]
  base::ThreadPool* pool = nullptr;
};

// Up-projects every key and value of a segment head by head, then plain softmax over all keys. The
// same arithmetic for prompt and generated rows.
void ReferenceAttention(const AttentionArgs& args, const Segment& segment);

// Absorbed form over latents, online softmax in blocks of one page. Prefill shares a page between
// neighbouring rows of a segment; decode splits the pages of all its rows over threads and merges
// each row's parts in page order.
void FlashPrefill(const AttentionArgs& args, const Segment& segment);
void FlashDecode(const AttentionArgs& args, std::span<const Segment> segments);

}  // namespace tandem::gpu_worker
