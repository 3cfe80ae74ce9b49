// ShardedLogits: logits of which every rank has a share of the vocabulary, as one RowLogits. Each
// rank answers for its share; here the answers become those of the whole.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "gpu_worker/backend/row_logits.h"

namespace tandem::gpu_worker {

// What all ranks say together of the rows that each of them has answered for.
BestLogits MergeBest(std::span<const BestLogits> ranks);

class ShardedLogits : public RowLogits {
 public:
  using Question = std::function<void(RowLogits& logits, int rank)>;
  // ask(question): runs it on every rank's thread with the rank's logits and waits; false when the
  // ranks have failed. What a question writes to lives as long as this.
  ShardedLogits(int ranks, int64_t vocab, std::function<bool(Question)> ask);

  // As in RowLogits; after a failure of the ranks outputs are left as they are.
  void Best(int64_t k, BestLogits* best) override;
  void WeightSums(std::span<const WeightSumAsk> asks, std::vector<uint64_t>* sums) override;
  void At(std::span<const LogitPlace> places, std::vector<float>* values) override;
  void Rows(std::span<const int64_t> rows, std::vector<float>* logits) override;

 private:
  const int64_t vocab_;
  const std::function<bool(Question)> ask_;
  // Written by ranks, so that one that comes late after a failure writes to memory that is there.
  std::vector<BestLogits> best_;             // [ranks]
  std::vector<std::vector<uint64_t>> sums_;  // [ranks]
  std::vector<float> values_;
};

}  // namespace tandem::gpu_worker
