// What prefill.cc, which cuts a prompt's attention into pieces, asks of the kernels that compute
// one piece.
#pragma once

#include "gpu_worker/backend/cuda/kernels/attention/attention.h"

namespace tandem::gpu_worker::cuda {

// Rows of a tile of the fast kernels.
inline constexpr int64_t kPrefillTileRows = 128;
// Keys that the kernels take at a time: a page, Hopper's two. Pieces are whole blocks of the
// largest.
inline constexpr int64_t kPrefillBlockTokens = 128;

// Heads [head_begin, head_begin + heads) of all rows over the keys at positions [begin, begin +
// tokens), whole blocks of kPrefillBlockTokens. State per head and row goes from piece to piece in
// f32, as it is after the last key of the piece before, so that where pieces end changes no bits. A
// row takes part in the pieces up to the one that holds its own position, at the end of which its
// result is stored; rows of one tile of queries go together, up to the tile's last position.
struct PrefillPiece {
  const MlaPrefillArgs* args = nullptr;
  int64_t head_begin = 0, heads = 0;
  int64_t begin = 0, tokens = 0;
  const void* latents = nullptr;  // [tokens, latent + rope]; zero behind the prompt's end
  const void* keys = nullptr;     // [heads, tokens, nope]
  const void* values = nullptr;   // [heads, tokens, v]
  float* means = nullptr;         // [heads, rows, v] sums of exp(score - maximum) * value
  float* maxima = nullptr;        // [heads, rows]
  float* sums = nullptr;          // [heads, rows, kPrefillSums] parts of the sum of exps

  int64_t end() const { return begin + tokens; }
};

// The four threads of a warp that share a row of an mma add up their own columns.
inline constexpr int64_t kPrefillSums = 4;

// latents [tokens, key] = the cached rows of positions [begin, begin + tokens) as long as they are
// below `end`, zeros behind. Rows of cache behind `end` are not read.
void GatherLatents(const MlaPrefillArgs& args, int64_t begin, int64_t tokens, int64_t end,
                   void* latents, Stream stream);

// Plain f32 loops, one thread block a row and head; any shape, both storages.
void ReferencePrefillPiece(const PrefillPiece& piece, Stream stream);
// mma.sync, bf16; the shapes of HasPortablePrefill.
void PortablePrefillPiece(const PrefillPiece& piece, Stream stream);

// wgmma and TMA, bf16, sm_90a; the shapes of HasHopperPrefill. Its bits are not those of the
// others.
void HopperPrefillPiece(const PrefillPiece& piece, Stream stream);
bool HasHopperPrefill(const MlaShape& shape);

// How many heads are done at a time and in pieces of how many tokens. `tokens`: start position and
// rows together.
struct PrefillCut {
  int64_t heads = 0, piece_tokens = 0;
};
PrefillCut CutPrefill(const MlaShape& shape, const PrefillLimits& limits, int64_t rows,
                      int64_t tokens);

}  // namespace tandem::gpu_worker::cuda
