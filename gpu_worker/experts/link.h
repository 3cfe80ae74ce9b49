// ExpertLink: the routed experts of one layer, seen from the forward pass: Start sends the rows,
// Finish gives their sums. In between the device computes the shared expert.
#pragma once

#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "gpu_worker/experts/combine.h"
#include "gpu_worker/experts/exchange.h"

namespace tandem::gpu_worker {

class ExpertLink {
 public:
  // `workers` must outlive this.
  ExpertLink(WorkerPool& workers, ExchangeOptions options)
      : workers_(workers), options_(std::move(options)) {}

  // Sends the rows of `layer` that are `alive` [rows]. `layer` and what it points to must live
  // until Finish. bf16 rows are summed on the grid (the grid exponents are filled in here), f32
  // rows come back per expert. A row with a value or weight that is not finite is not sent and
  // fails with DATA_LOSS.
  void Start(RoutedLayer& layer, const std::vector<bool>& alive, absl::Time deadline);
  // Waits for the answers and writes routed [rows, hidden]; rows that failed are zero and have
  // their status set in row_status [rows], which holds OK for all others.
  void Finish(std::span<float> routed, std::vector<absl::Status>* row_status);

  const WireCounters& counters() const { return counters_; }

 private:
  std::vector<Term> TermsOf(std::span<const int64_t> rows) const;
  void AskFlaggedRows(std::vector<absl::Status>* row_status);

  WorkerPool& workers_;
  const ExchangeOptions options_;
  WireCounters counters_;
  // The layer between Start and Finish.
  RoutedLayer* layer_ = nullptr;
  absl::Time deadline_;
  std::vector<absl::Status> row_status_;
  std::optional<Combine> combine_;
  std::vector<int32_t> sum_buffer_;  // kept from layer to layer
  std::optional<Exchange> exchange_;
};

}  // namespace tandem::gpu_worker
