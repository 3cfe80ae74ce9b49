// Operations on rows of activations: one pass over memory each, f32 arithmetic, one rounding where
// a value is stored. Each is what the host backend does under the same name, in the same order of
// roundings; sums run in an order of their own, fixed per row length, so a row's bits depend on
// that row alone. Nothing here allocates or synchronizes, so all of it can be captured in a graph.
//
// Pointers are to device memory. Rows are contiguous where no stride is given; strides and
// dimensions count values. Storage is what activations are kept in: bf16, or f32 for comparisons.
#pragma once

#include <cstdint>

#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/row_logits.h"

namespace tandem::gpu_worker::cuda {

enum class Storage { kBf16, kF32 };
inline int64_t BytesOf(Storage storage) { return storage == Storage::kBf16 ? 2 : 4; }

// x[r] = table[ids[r]]. ids [rows], each below vocab; table [vocab, hidden], x [rows, hidden].
void Embed(Storage storage, const uint32_t* ids, const void* table, int64_t hidden, int64_t rows,
           void* x, Stream stream);

// Rows for an expert: out[i] = x[row_ids[i]], zeros where row_ids[i] is kNoRow. x rows are x_stride
// values apart, out [rows, cols] apart from x.
inline constexpr uint32_t kNoRow = 0xffffffffu;
void GatherRows(Storage storage, const void* x, int64_t x_stride, const uint32_t* row_ids,
                int64_t cols, int64_t rows, void* out, Stream stream);

// And back: out[r] = sum over e in [starts[r], starts[r + 1]) of weights[e] * y[entries[e]], each
// product rounded to f32 and added to zero in that order, as rows in f32 are combined on the host
// (experts/combine.h). A row without entries becomes zeros.
struct ScatterAddArgs {
  Storage storage = Storage::kBf16;  // of y
  const void* y = nullptr;           // [.., y_stride]
  int64_t y_stride = 0;
  const uint32_t* starts = nullptr;   // [rows + 1], not descending
  const uint32_t* entries = nullptr;  // [starts[rows]] rows of y
  const float* weights = nullptr;     // [starts[rows]]; null: ones
  int64_t rows = 0, cols = 0;
  float* out = nullptr;  // [rows, cols]
};
void ScatterAddRows(const ScatterAddArgs& args, Stream stream);

// The same on the grid of lib/kernels/expert_grid.h, whose sums are the same bits however the
// experts are spread over devices: steps[r] = sum of round(weights[e] * y[entries[e]] *
// inverse_steps[r]), the terms of the CPU workers. A row with a term beyond `limit` or not finite
// is flagged, and its steps mean nothing.
struct ScatterGridArgs {
  ScatterAddArgs rows;                   // out is not used
  const float* inverse_steps = nullptr;  // [rows] GridStep(-s) of the row
  float limit = 0;                       // GridLimit(top_k)
  int32_t* steps = nullptr;              // [rows, cols]
  uint8_t* flags = nullptr;              // [rows] 1: flagged
};
void ScatterAddGrid(const ScatterGridArgs& args, Stream stream);

// out = x / sqrt(mean(x^2) + eps) * weight. x [rows, x_stride] of which the first `cols` count,
// out [rows, out_stride]; in place is fine where there are no row_ids. weight [cols] f32.
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
// RmsNorm and QuantizeFp8Rows of its result in one pass, with the bits of the two. Storage bf16;
// args.out may be null where only the codes are wanted. codes and scales as in QuantizeFp8Rows.
void RmsNormFp8(const RmsNormArgs& args, uint8_t* codes, float* scales, Stream stream);

// x += delta, rounded. count values.
void Add(Storage storage, const void* delta, int64_t count, void* x, Stream stream);
// x += routed + shared in one rounding: x + (routed + shared). routed [count] f32.
void AddMoe(Storage storage, const void* shared, const float* routed, int64_t count, void* x,
            Stream stream);
// out = silu(gate) * up, silu(v) = v / (1 + exp(-v)). gate and up [rows, stride], side by side in
// one buffer or apart, out [rows, out_stride], which may be gate; of each row the first `cols`.
struct SwiGluArgs {
  Storage storage = Storage::kBf16;
  const void* gate = nullptr;
  const void* up = nullptr;
  int64_t stride = 0, cols = 0, rows = 0;
  void* out = nullptr;
  int64_t out_stride = 0;
};
void SwiGlu(const SwiGluArgs& args, Stream stream);
// SwiGlu and QuantizeFp8Rows of its result in one pass, with the bits of the two. gate and up
// [rows, stride] bf16; codes and scales as in QuantizeFp8Rows.
void SwiGluFp8(const uint16_t* gate, const uint16_t* up, int64_t stride, int64_t cols, int64_t rows,
               uint8_t* codes, float* scales, Stream stream);

// Rotates pairs (2i, 2i+1) or (i, i + rope/2) of the rope part as `halves` says; see rope.h of the
// host backend, whose tables cos and sin [rows, rope / 2] are.
struct RopeArgs {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int64_t rope = 0;
  bool halves = false;
};
// The last `rope` values of each head of q [rows, heads, head_dim], in place; or, where there is
// `from`, of its rows, from_stride apart, of which q becomes a copy.
struct RotateQueriesArgs {
  Storage storage = Storage::kBf16;
  RopeArgs rope;
  int64_t heads = 0, head_dim = 0, rows = 0;
  void* q = nullptr;
  const void* from = nullptr;
  int64_t from_stride = 0;
};
void RotateQueries(const RotateQueriesArgs& args, Stream stream);

// What is cached of each row: rms_norm(kv[0:latent]) * weight, then the rotated kv[latent:],
// written to slot slots[r] = page * page_tokens + place of `cache` [pages * page_tokens, latent +
// rope]. A negative slot is a padding row: nothing is written.
struct FinishKeysArgs {
  Storage storage = Storage::kBf16;
  const void* kv = nullptr;  // [rows, kv_stride]
  int64_t kv_stride = 0;     // 0: latent + rope
  const float* weight = nullptr;
  float eps = 0;
  int64_t latent = 0, rows = 0;
  RopeArgs rope;
  const int64_t* slots = nullptr;  // [rows]
  void* cache = nullptr;
};
void FinishKeys(const FinishKeysArgs& args, Stream stream);

// Experts of each row from its router logits, in f32: the choices and the bits of ChooseExperts in
// host/router.h, ties to the lower index, NaN last. ids and weights [rows, per_token], best first.
// forced [rows, per_token], each below `experts`: ids taken instead of the choice; null: none.
//
// Of a ModelConfig: kGreedy is groups = 1 whatever n_group says, without bias;
// kGroupLimitedGreedy has groups and no bias; kNoAuxTc groups, bias and group_by_top2. `normalize`
// is norm_topk_prob and `scale` routed_scaling_factor as they stand in the file; that one chosen
// expert is not normalized and that softmax scales only what it does not normalize is done here.
// At most kRouteExpertsMax experts, 32 of them a row, 32 groups.
inline constexpr int64_t kRouteExpertsMax = 512;
struct RouteArgs {
  const float* logits = nullptr;  // [rows, experts]
  const float* bias = nullptr;    // [experts]; null: none
  const uint32_t* forced = nullptr;
  int64_t rows = 0, experts = 0, per_token = 0;
  int64_t groups = 1, groups_kept = 1;
  bool sigmoid = false;        // else softmax
  bool group_by_top2 = false;  // a group's score: sum of its two best; else its best
  bool normalize = false;
  float scale = 1.0f;
  uint32_t* ids = nullptr;
  float* weights = nullptr;
};
void Route(const RouteArgs& args, Stream stream);

// fp8 inputs: per 128 consecutive values of a row one scale = max|x| / 448 (see QuantizeFp8Inputs
// in lib/kernels/fp8_linear.h, whose bits these are). x [rows, x_stride] bf16; codes [rows, cols
// padded to 128], aligned to 8 bytes, padding zero; scales [rows, cols / 128 rounded up].
void QuantizeFp8Rows(const uint16_t* x, int64_t x_stride, int64_t cols, int64_t rows,
                     uint8_t* codes, float* scales, Stream stream);

// What is asked about logits [rows, vocab] (row_logits.h), vocab at most 262144.

// The k best of each row: values and ids [rows, k], most likely first, ties to the lower id.
// not_finite [rows]: the lowest id whose logit is NaN or infinite, which the engine refuses, kNoRow
// where all are finite; where there is one, ids stay below vocab and mean nothing. k is at most
// kTopLogitsMax and vocab.
inline constexpr int64_t kTopLogitsMax = 64;
struct TopLogitsArgs {
  const float* logits = nullptr;
  int64_t rows = 0, vocab = 0, k = 0;
  float* values = nullptr;
  uint32_t* ids = nullptr;
  uint32_t* not_finite = nullptr;
  void* workspace = nullptr;  // TopLogitsWorkspaceBytes, aligned to 8; content does not matter
  size_t workspace_bytes = 0;
};
size_t TopLogitsWorkspaceBytes(int64_t rows, int64_t vocab, int64_t k);
void TopLogits(const TopLogitsArgs& args, Stream stream);

// sums[i] = WeightSum (backend/weight_sum.h) of logits' row asks[i].row, bit for bit; asks and sums
// [count] on the device. The rows are finite.
void WeightSums(const float* logits, int64_t vocab, const WeightSumAsk* asks, int64_t count,
                uint64_t* sums, Stream stream);

// values[i] = logits[places[i].row][places[i].id]; places and values [count] on the device.
void PickLogits(const float* logits, int64_t vocab, const LogitPlace* places, int64_t count,
                float* values, Stream stream);

}  // namespace tandem::gpu_worker::cuda
