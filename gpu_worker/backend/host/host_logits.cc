#include "gpu_worker/backend/host/host_logits.h"

#include <algorithm>

#include "gpu_worker/backend/best_of_row.h"
#include "gpu_worker/backend/weight_sum.h"
#include "lib/base/check.h"

namespace tandem::gpu_worker {

std::span<float> HostLogits::Reset(int64_t rows) {
  rows_ = rows;
  logits_.resize(std::max<size_t>(logits_.size(), rows * own_.size()));
  return std::span(logits_).first(rows * own_.size());
}

void HostLogits::Best(int64_t k, BestLogits* best) {
  TANDEM_CHECK(k >= 1 && k <= std::min(kBestLogitsMax, vocab_));
  best->k = k;
  best->tokens.resize(rows_ * k);
  best->not_finite.resize(rows_);
  pool_.ParallelFor(rows_, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      best->not_finite[r] = BestOfRow(Row(r), static_cast<uint32_t>(own_.begin),
                                      std::span(best->tokens).subspan(r * k, k));
    }
  });
}

void HostLogits::WeightSums(std::span<const WeightSumAsk> asks, std::vector<uint64_t>* sums) {
  sums->resize(asks.size());
  pool_.ParallelFor(static_cast<int64_t>(asks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      (*sums)[i] = WeightSum(Row(asks[i].row), asks[i].highest, asks[i].temperature);
    }
  });
}

void HostLogits::At(std::span<const LogitPlace> places, std::vector<float>* values) {
  values->resize(places.size());
  for (size_t i = 0; i < places.size(); ++i) {
    TANDEM_CHECK_LT(places[i].id, vocab_);
    if (places[i].id < own_.begin || places[i].id >= own_.end) continue;
    (*values)[i] = Row(places[i].row)[places[i].id - own_.begin];
  }
}

void HostLogits::Rows(std::span<const int64_t> rows, std::vector<float>* logits) {
  logits->resize(rows.size() * vocab_);
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::span<const float> row = Row(rows[i]);
    std::copy(row.begin(), row.end(), logits->begin() + i * vocab_ + own_.begin);
  }
}

}  // namespace tandem::gpu_worker
