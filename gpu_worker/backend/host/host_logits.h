// HostLogits: rows of logits in host memory, of all the vocabulary or of one rank's share.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "gpu_worker/backend/row_logits.h"
#include "gpu_worker/backend/shard/shard_plan.h"
#include "lib/base/thread_pool.h"

namespace tandem::gpu_worker {

class HostLogits : public RowLogits {
 public:
  // own: the ids that are here. `pool` outlives this.
  HostLogits(int64_t vocab, ShardRange own, base::ThreadPool& pool)
      : vocab_(vocab), own_(own), pool_(pool) {}

  // Room for new rows [rows, own.size()]; what was there before is gone.
  std::span<float> Reset(int64_t rows);

  void Best(int64_t k, BestLogits* best) override;
  void WeightSums(std::span<const WeightSumAsk> asks, std::vector<uint64_t>* sums) override;
  void At(std::span<const LogitPlace> places, std::vector<float>* values) override;
  void Rows(std::span<const int64_t> rows, std::vector<float>* logits) override;

 private:
  std::span<const float> Row(int64_t row) const {
    return std::span(logits_).subspan(row * own_.size(), own_.size());
  }

  const int64_t vocab_;
  const ShardRange own_;
  base::ThreadPool& pool_;
  int64_t rows_ = 0;
  std::vector<float> logits_;  // [at least rows, own]
};

}  // namespace tandem::gpu_worker
