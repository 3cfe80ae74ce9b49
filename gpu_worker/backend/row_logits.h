// RowLogits: the logits of some rows, where a backend has them. A row of logits is large (half a
// megabyte), and what becomes of it is one token: so the engine asks for the little that decides
// it, and for whole rows only where that is not enough. Every answer is a function of the row's
// logits alone, the same bits on every device and for any number of ranks; sampler.h says what may
// be concluded from it.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

namespace tandem::gpu_worker {

struct TokenLogit {
  uint32_t id = 0;
  float logit = 0;
  bool operator==(const TokenLogit&) const = default;
};

// The order of tokens: the higher logit first (zeros of both signs are equal), the lower id first
// of equals.
inline bool MoreLikely(const TokenLogit& a, const TokenLogit& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// Tokens of a row that Best finds at most: as many as the device's search keeps in shared memory.
inline constexpr int64_t kBestLogitsMax = 64;

inline constexpr uint32_t kNoToken = std::numeric_limits<uint32_t>::max();
// Behind every token: what a rank says where its share of the vocabulary has no more.
inline constexpr TokenLogit kNoTokenLogit = {kNoToken, -std::numeric_limits<float>::infinity()};

struct BestLogits {
  int64_t k = 0;
  std::vector<TokenLogit> tokens;  // [rows, k] most likely first
  // [rows] The lowest id whose logit is NaN or infinite, kNoToken where all are finite. Where one
  // is not, the row's tokens mean nothing.
  std::vector<uint32_t> not_finite;

  std::span<const TokenLogit> row(int64_t r) const { return std::span(tokens).subspan(r * k, k); }
};

// A sum of weights over a row's tokens (weight_sum.h).
struct WeightSumAsk {
  uint32_t row = 0;
  float highest = 0, temperature = 1;
};

struct LogitPlace {
  uint32_t row = 0, id = 0;
};

// Rows are numbered from 0. Outputs are resized. Of one rank of several: the answer for its own
// share of the vocabulary, in terms of the whole one: Best is padded with kNoTokenLogit, At and
// Rows get outputs of the full size and write what is theirs.
class RowLogits {
 public:
  virtual ~RowLogits() = default;

  // The k most likely tokens of every row, 1 <= k <= min(kBestLogitsMax, vocabulary).
  virtual void Best(int64_t k, BestLogits* best) = 0;
  // sums [asks.size()]; the rows' logits are finite.
  virtual void WeightSums(std::span<const WeightSumAsk> asks, std::vector<uint64_t>* sums) = 0;
  // values [places.size()]
  virtual void At(std::span<const LogitPlace> places, std::vector<float>* values) = 0;
  // logits [rows.size(), vocabulary]
  virtual void Rows(std::span<const int64_t> rows, std::vector<float>* logits) = 0;
};

}  // namespace tandem::gpu_worker
