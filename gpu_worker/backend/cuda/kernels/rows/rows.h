// Operations on rows of activations: one pass over memory each, f32 arithmetic, one rounding where
// a value is stored. Each is what the host backend does under the same name, in the same order of
// roundings; sums run in an order of their own, fixed per row length, so a row's bits depend on that
// row alone. Nothing here allocates or synchronizes, so all of it can be captured in a graph.
//
// Pointers are to device memory. Rows are contiguous where no stride is given; strides and
// dimensions count values. Storage is what activations are kept in: bf16, or f32 for comparisons.
#pragma once

#include <cstdint>

#include "gpu_worker/backend/cuda/device/device.h"

namespace tandem::gpu_worker::cuda {

enum class Storage { kBf16, kF32 };
inline int64_t BytesOf(Storage storage) { return storage == Storage::kBf16 ? 2 : 4; }

// x[r] = table[ids[r]]. ids [rows], table [vocab, hidden], x [rows, hidden].
void Embed(Storage storage, const uint32_t* ids, const void* table, int64_t hidden, int64_t rows,
           void* x, Stream stream);

// out = x / sqrt(mean(x^2) + eps) * weight. x [rows, x_stride] of which the first `cols` count,
// out [rows, out_stride]; in place is fine. weight [cols] f32.
struct RmsNormArgs {
  Storage storage = Storage::kBf16;
  const void* x = nullptr;
  int64_t x_stride = 0;
  const float* weight = nullptr;
  float eps = 0;
  int64_t cols = 0, rows = 0;
  void* out = nullptr;
  int64_t out_stride = 0;
  // Of the rows to read: x's row of out's row r is row_ids[r]; null: r.
  const uint32_t* row_ids = nullptr;
};
void RmsNorm(const RmsNormArgs& args, Stream stream);

// x += delta, rounded. count values.
void Add(Storage storage, const void* delta, int64_t count, void* x, Stream stream);
// x += routed + shared in one rounding: x + (routed + shared). routed [count] f32.
void AddMoe(Storage storage, const void* shared, const float* routed, int64_t count, void* x,
            Stream stream);
// out = silu(gate) * up, silu(v) = v / (1 + exp(-v)). out may be gate.
void SwiGlu(Storage storage, const void* gate, const void* up, int64_t count, void* out,
            Stream stream);

// Rotates pairs (2i, 2i+1) or (i, i + rope/2) of the rope part as `halves` says; see rope.h of the
// host backend, whose tables cos and sin [rows, rope / 2] are.
struct RopeArgs {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int64_t rope = 0;
  bool halves = false;
};
// In place on q [rows, heads, head_dim]: the last `rope` values of each head.
void RotateQueries(Storage storage, const RopeArgs& rope, int64_t heads, int64_t head_dim,
                   int64_t rows, void* q, Stream stream);

// What is cached of each row: rms_norm(kv[0:latent]) * weight, then the rotated kv[latent:], written
// to slot slots[r] = page * page_tokens + place of `cache` [pages * page_tokens, latent + rope]. A
// negative slot is a padding row: nothing is written.
struct FinishKeysArgs {
  Storage storage = Storage::kBf16;
  const void* kv = nullptr;  // [rows, latent + rope]
  const float* weight = nullptr;
  float eps = 0;
  int64_t latent = 0, rows = 0;
  RopeArgs rope;
  const int64_t* slots = nullptr;  // [rows]
  void* cache = nullptr;
};
void FinishKeys(const FinishKeysArgs& args, Stream stream);

// Experts of each row from its router logits, in f32, as host/router.h has it: ties go to the lower
// index. ids and weights [rows, per_token], best first. forced [rows, per_token]: ids taken instead
// of the choice; null: none.
struct RouteArgs {
  const float* logits = nullptr;  // [rows, experts]
  const float* bias = nullptr;    // [experts]; null: none
  const uint32_t* forced = nullptr;
  int64_t rows = 0, experts = 0, per_token = 0;
  int64_t groups = 1, groups_kept = 1;
  bool sigmoid = false;           // else softmax
  bool group_by_top2 = false;     // a group's score: sum of its two best; else its best
  bool normalize = false;
  float scale = 1.0f;
  uint32_t* ids = nullptr;
  float* weights = nullptr;
};
void Route(const RouteArgs& args, Stream stream);

// fp8 inputs: per 128 consecutive values of a row one scale = max|x| / 448 (see QuantizeFp8Row in
// lib/kernels/fp8_linear.h, whose bits these are). x [rows, x_stride] bf16; codes [rows, cols
// padded to 128], padding zero; scales [rows, cols / 128 rounded up].
void QuantizeFp8Rows(const uint16_t* x, int64_t x_stride, int64_t cols, int64_t rows,
                     uint8_t* codes, float* scales, Stream stream);

// Best candidates of each row of logits, for a sampler that needs no more: see sample.h of the
// engine. values and ids [rows, k], descending, ties to the lower id; log_sums [rows]: log of the
// sum of exp(logit) over the vocabulary.
struct TopLogitsArgs {
  const float* logits = nullptr;  // [rows, vocab]
  int64_t rows = 0, vocab = 0, k = 0;
  float* values = nullptr;
  uint32_t* ids = nullptr;
  float* log_sums = nullptr;
};
void TopLogits(const TopLogitsArgs& args, Stream stream);

}  // namespace tandem::gpu_worker::cuda
