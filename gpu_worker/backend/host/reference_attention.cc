#include <algorithm>
#include <vector>

#include "gpu_worker/backend/host/attention.h"
#include "gpu_worker/backend/host/bf16.h"
#include "lib/kernels/activation.h"
#include "lib/kernels/linear.h"

namespace tandem::gpu_worker {
namespace {

// All cached tokens of a segment's sequence up to its last row.
struct SequenceKeys {
  int64_t tokens = 0;
  std::vector<float> rows;       // [tokens, latent + rope] f32
  std::vector<uint16_t> packed;  // the same as bf16, in bf16 precision
};

SequenceKeys GatherKeys(const AttentionArgs& args, const Segment& segment) {
  const int64_t dim = args.shape->key();
  SequenceKeys keys;
  keys.tokens = segment.start_position + segment.rows;
  keys.rows.resize(keys.tokens * dim);
  for (int64_t begin = 0; begin < keys.tokens; begin += kPageTokens) {
    const int64_t count = std::min(kPageTokens, keys.tokens - begin);
    args.cache->Read(args.layer, segment.pages[begin / kPageTokens], count,
                     keys.rows.data() + begin * dim);
  }
  if (args.precision == Precision::kBf16) {
    keys.packed.resize(keys.rows.size());
    PackBf16(keys.rows.data(), dim, keys.tokens, dim, keys.packed.data());
  }
  return keys;
}

// Keys and values of one head, rebuilt from the latents.
struct HeadKeys {
  std::vector<float> nope;   // [tokens, nope]
  std::vector<float> value;  // [tokens, v]
};

HeadKeys UpProject(const AttentionArgs& args, const SequenceKeys& keys, int64_t head) {
  const AttentionShape& s = *args.shape;
  const void* latents = args.precision == Precision::kBf16
                            ? static_cast<const void*>(keys.packed.data())
                            : static_cast<const void*>(keys.rows.data());
  HeadKeys up{std::vector<float>(keys.tokens * s.nope), std::vector<float>(keys.tokens * s.v)};
  args.heads->keys[head].ApplyRange(latents, s.key(), keys.tokens, 0, s.nope, true, up.nope.data(),
                                    s.nope);
  args.heads->values[head].ApplyRange(latents, s.key(), keys.tokens, 0, s.v, true, up.value.data(),
                                      s.v);
  return up;
}

// One row, one head: softmax over keys [0, visible), then the mean of the values.
void AttendRow(const AttentionArgs& args, const SequenceKeys& keys, const HeadKeys& up,
               const float* q, int64_t visible, std::vector<float>& p, float* out) {
  const AttentionShape& s = *args.shape;
  p.resize(visible);
  for (int64_t j = 0; j < visible; ++j) {
    const float nope = kernels::DotF32(q, up.nope.data() + j * s.nope, s.nope);
    const float rope =
        kernels::DotF32(q + s.nope, keys.rows.data() + j * s.key() + s.latent, s.rope);
    p[j] = (nope + rope) * args.shape->softmax_scale;
  }
  kernels::ExpShifted(p.data(), *std::max_element(p.begin(), p.end()), p.data(), visible);
  float sum = 0;
  std::fill_n(out, s.v, 0.0f);
  for (int64_t j = 0; j < visible; ++j) {
    sum += p[j];
    const float* value = up.value.data() + j * s.v;
    for (int64_t i = 0; i < s.v; ++i) out[i] += p[j] * value[i];
  }
  for (int64_t i = 0; i < s.v; ++i) {
    out[i] /= sum;
    if (args.precision == Precision::kBf16) out[i] = RoundBf16(out[i]);
  }
}

}  // namespace

void ReferenceAttention(const AttentionArgs& args, const Segment& segment) {
  const AttentionShape& s = *args.shape;
  const SequenceKeys keys = GatherKeys(args, segment);
  args.pool->ParallelFor(s.heads, 1, [&](int64_t begin, int64_t end) {
    std::vector<float> p;
    for (int64_t head = begin; head < end; ++head) {
      const HeadKeys up = UpProject(args, keys, head);
      for (int64_t r = 0; r < segment.rows; ++r) {
        const int64_t row_head = (segment.row_begin + r) * s.heads + head;
        AttendRow(args, keys, up, args.q + row_head * s.qk(), segment.start_position + r + 1, p,
                  args.attended + row_head * s.v);
      }
    }
  });
}

}  // namespace tandem::gpu_worker
