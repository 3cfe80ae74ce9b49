// One block of flash attention: the keys of one page against the latent queries of a few rows, and
// the merge of blocks. The block is always the whole page counted from position 0 and blocks are
// always merged one by one in page order, so the same bits come out however rows are grouped and
// pages are split over threads. (Online softmax: Milakov and Gimelshein, 2018; split and merge:
// Dao, "Flash-Decoding", 2023.)
#pragma once

#include <cstdint>
#include <vector>

#include "gpu_worker/backend/host/attention.h"

namespace tandem::gpu_worker {

// Softmax state of some (row, head) pairs: maximum, sum of exponentials, weighted sum of latents.
struct FlashState {
  explicit FlashState(int64_t pairs = 0, int64_t latent = 0) { Reset(pairs, latent); }
  void Reset(int64_t pairs, int64_t latent);

  std::vector<float> max;   // [pairs]
  std::vector<float> sum;   // [pairs]; 0 means no key seen yet
  std::vector<float> mean;  // [pairs, latent], not yet divided by sum
};

struct FlashScratch {
  std::vector<float> keys;       // [kPageTokens, key] f32
  std::vector<float> latents_t;  // [latent, kPageTokens], zero beyond the loaded keys
  std::vector<float> p;          // [pairs, kPageTokens]
};

// Loads the first `tokens` keys of `page`; the rest of the block becomes zero.
void LoadBlock(const AttentionArgs& args, uint32_t page, int64_t tokens, FlashScratch& scratch);

// The block's own state for `rows` consecutive rows; latent_q [rows, heads, key]. visible[r]: how
// many of the block's keys row r may see, 0 leaves its sum at 0.
void BlockState(const AttentionArgs& args, const float* latent_q, int64_t rows,
                const int64_t* visible, FlashScratch& scratch, FlashState& block);

// total[i] = total[i] merged with block[j], for one pair each.
void MergePair(int64_t latent, const FlashState& block, int64_t j, FlashState& total, int64_t i);

}  // namespace tandem::gpu_worker
