// Multi-head latent attention on the device, over the paged latent cache (one token of one layer:
// latent [latent] normed, then rope key [rope]; pages of kPageTokens tokens, page numbers from the
// step plan).
//
// Bits: a row's result depends on its query, its own length and its keys, never on the other rows
// of the step nor on how a prompt was cut into chunks. Therefore keys are taken in blocks of one
// page from position 0 up, and where a row's pages are split over thread blocks, the places of the
// splits are a function of that row's length alone (SplitsOf) and parts are merged in page order.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "gpu_worker/backend/cuda/device/device.h"
#include "gpu_worker/backend/cuda/kernels/linear/linear.h"
#include "gpu_worker/backend/cuda/kernels/rows/rows.h"

namespace tandem::gpu_worker::cuda {

struct MlaShape {
  int64_t heads = 0, latent = 0, rope = 0;
  int64_t nope = 0, v = 0;  // of one head, prefill only
  float softmax_scale = 0;
  // Of the model, where several ranks share its heads. It decides how many heads a thread block of
  // decode does at once, and thereby the order of sums: a part has the bits of the whole. 0: heads.
  int64_t whole_heads = 0;
  int64_t key() const { return latent + rope; }
};

// Absorbed form: queries are in latent space already. Row r sees keys [0, lengths[r]) of its page
// table. length 0 (padding): out is zero, whatever the table holds. Entries of a table behind the
// length are never read, and neither are cache rows behind it.
struct MlaDecodeArgs {
  Kernels kernels = Kernels::kPortable;
  Storage storage = Storage::kBf16;
  MlaShape shape;
  const void* q = nullptr;              // [rows, heads, latent + rope]
  const void* cache = nullptr;          // [pages * page_tokens, latent + rope] of the layer
  const int32_t* page_table = nullptr;  // [rows, page_table_stride]
  int64_t page_table_stride = 0;
  const int32_t* lengths = nullptr;  // [rows]
  int64_t rows = 0;
  void* out = nullptr;   // [rows, heads, latent] mean latent of each head
  float* lse = nullptr;  // [rows, heads] log of the sum of exp(score), -inf for none; or null
  // What follows is not read by kernels = kReference. The plan, on the device, was made of the same
  // lengths, and covers `rows` rows or more.
  const void* plan = nullptr;
  void* workspace = nullptr;  // DecodeWorkspaceBytes; its content does not matter
  size_t workspace_bytes = 0;
  int multiprocessors = 0;      // as PlanDecode was told
  size_t shared_bytes_max = 0;  // of a thread block: DeviceProperties
};

// How many parts a row of this many keys is cut into: the smallest number whose square is not less
// than its pages (decode_plan.h says why). PartPages: part p takes pages [PartPages(p), PartPages(p
// + 1)). Functions of the length alone.
int64_t SplitsOf(int64_t length);
int64_t PartPages(int64_t length, int64_t part);

// The work list of a step: which thread block does which (row, head group, part). Pure host code;
// the same for all layers of a step. `rows_max` and `tokens_max` (of the longest row) fix the size,
// so that a graph that was captured with a buffer can be replayed with another plan in it; rows
// behind `lengths` have length 0. Lengths are at most tokens_max.
struct DecodePlan {
  std::vector<int32_t> words;  // to be copied to the device as it is; DecodePlanBytes
  // As many words as are read, from the first; what a copy outside of a graph may stop at.
  int64_t words_used = 0;
};
DecodePlan PlanDecode(const MlaShape& shape, std::span<const int32_t> lengths, int64_t rows_max,
                      int64_t tokens_max, int multiprocessors);
size_t DecodePlanBytes(const MlaShape& shape, int64_t rows_max, int64_t tokens_max,
                       int multiprocessors);
size_t DecodeWorkspaceBytes(const MlaShape& shape, int64_t rows_max, int64_t tokens_max,
                            int multiprocessors);

// Whether kPortable has a kernel for these dimensions in this storage. MlaDecode ends the process
// where there is none: who chooses the kernels asks at start.
bool HasPortableDecode(const MlaShape& shape, Storage storage);

// Enqueues the attention of all rows; no allocation, no synchronization. rows = 0 does nothing.
void MlaDecode(const MlaDecodeArgs& args, Stream stream);

// How much is rebuilt at a time: keys and values of `piece_tokens` tokens (a multiple of 128) of
// `heads` heads, or as many as that makes of fewer tokens and more heads. Bounds the workspace;
// changes no bits.
struct PrefillLimits {
  // With heads of 128 + 128 dimensions: 67 MB of keys and values.
  int64_t piece_tokens = 4096, heads = 32;
};

// Not absorbed: keys and values of each head rebuilt from the latents, for prompts. Rows of one
// sequence at positions start_position + i; row i sees keys [0, start_position + i]. The rows' own
// keys are in the cache already; what lies behind them is not read.
struct MlaPrefillArgs {
  Kernels kernels = Kernels::kPortable;  // in f32 attention has the reference's only
  Storage storage = Storage::kBf16;
  MlaShape shape;
  const void* q = nullptr;  // [rows, heads, nope + rope]
  const void* cache = nullptr;
  const int32_t* pages = nullptr;  // of this sequence, on the device
  int64_t start_position = 0, rows = 0;
  DeviceMatrix key_up;        // batch = heads: [nope, latent] each; bf16, or f32 as the storage
  DeviceMatrix value_up;      // batch = heads: [v, latent] each
  void* out = nullptr;        // [rows, heads, v]
  void* workspace = nullptr;  // PrefillWorkspaceBytes of at least `rows`; content does not matter
  size_t workspace_bytes = 0;
  PrefillLimits limits = {};
};
// Enough for any start position.
size_t PrefillWorkspaceBytes(const MlaShape& shape, Storage storage, int64_t rows_max,
                             const PrefillLimits& limits = {});
// Whether kPortable has a kernel for these dimensions in bf16. MlaPrefill ends the process where
// there is none: who chooses the kernels asks at start.
bool HasPortablePrefill(const MlaShape& shape, Storage storage);
// Enqueues it all; no allocation, no synchronization. rows = 0 does nothing.
void MlaPrefill(const MlaPrefillArgs& args, Stream stream);

}  // namespace tandem::gpu_worker::cuda
