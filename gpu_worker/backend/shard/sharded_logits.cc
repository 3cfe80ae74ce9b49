#include "gpu_worker/backend/shard/sharded_logits.h"

#include <algorithm>
#include <utility>

namespace tandem::gpu_worker {

BestLogits MergeBest(std::span<const BestLogits> ranks) {
  BestLogits whole = {.k = ranks[0].k, .tokens = {}, .not_finite = ranks[0].not_finite};
  std::vector<TokenLogit> tokens;
  for (size_t r = 0; r < whole.not_finite.size(); ++r) {
    tokens.clear();
    for (const BestLogits& rank : ranks) {
      const std::span<const TokenLogit> row = rank.row(static_cast<int64_t>(r));
      tokens.insert(tokens.end(), row.begin(), row.end());
      whole.not_finite[r] = std::min(whole.not_finite[r], rank.not_finite[r]);
    }
    // Rows that are not finite have no order to sort by.
    if (whole.not_finite[r] == kNoToken) {
      std::partial_sort(tokens.begin(), tokens.begin() + whole.k, tokens.end(), MoreLikely);
    }
    whole.tokens.insert(whole.tokens.end(), tokens.begin(), tokens.begin() + whole.k);
  }
  return whole;
}

ShardedLogits::ShardedLogits(int ranks, int64_t vocab, std::function<bool(Question)> ask)
    : vocab_(vocab), ask_(std::move(ask)), best_(ranks), sums_(ranks) {}

void ShardedLogits::Best(int64_t k, BestLogits* best) {
  if (ask_([this, k](RowLogits& l, int rank) { l.Best(k, &best_[rank]); })) {
    *best = MergeBest(best_);
  }
}

void ShardedLogits::WeightSums(std::span<const WeightSumAsk> asks, std::vector<uint64_t>* sums) {
  const std::vector<WeightSumAsk> all(asks.begin(), asks.end());
  if (!ask_([this, all](RowLogits& l, int rank) { l.WeightSums(all, &sums_[rank]); })) return;
  sums->assign(asks.size(), 0);
  for (const std::vector<uint64_t>& rank : sums_) {
    for (size_t i = 0; i < asks.size(); ++i) (*sums)[i] += rank[i];
  }
}

void ShardedLogits::At(std::span<const LogitPlace> places, std::vector<float>* values) {
  const std::vector<LogitPlace> all(places.begin(), places.end());
  values_.resize(all.size());
  if (ask_([this, all](RowLogits& l, int) { l.At(all, &values_); })) std::swap(values_, *values);
}

void ShardedLogits::Rows(std::span<const int64_t> rows, std::vector<float>* logits) {
  const std::vector<int64_t> all(rows.begin(), rows.end());
  values_.resize(all.size() * vocab_);
  if (ask_([this, all](RowLogits& l, int) { l.Rows(all, &values_); })) std::swap(values_, *logits);
}

}  // namespace tandem::gpu_worker
