// ExpertLink: the routed experts of one layer, seen from the forward pass: Start sends the rows,
// Finish gives their sums. In between the device computes the shared expert, and the layer of
// another step, whose rows may be away at the same time.
#pragma once

#include <array>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "gpu_worker/experts/combine.h"
#include "gpu_worker/experts/exchange.h"
#include "gpu_worker/experts/routing_counter.h"

namespace tandem::gpu_worker {

class ExpertLink {
 public:
  // `workers` must outlive this.
  ExpertLink(WorkerPool& workers, ExchangeOptions options)
      : shared_{.workers = workers, .options = std::move(options)} {}

  // Sends the rows of `layer` that are `alive` [rows]. `layer` and what it points to must live
  // until Finish of the same slot, of which nothing else is under way. bf16 rows are summed on the
  // grid (the grid exponents are filled in here), f32 rows come back per expert. A row with a value
  // or weight that is not finite is not sent and fails with DATA_LOSS.
  void Start(int slot, RoutedLayer& layer, const std::vector<bool>& alive, absl::Time deadline);
  // Waits until every row of the slot is answered or given up, at its deadline at the latest; takes
  // what arrives for the other slot, too.
  void Wait(int slot);
  // Waits, then writes routed [rows, hidden]; rows that failed are zero and have their status set
  // in row_status [rows], which holds OK for all others.
  void Finish(int slot, std::span<float> routed, std::vector<absl::Status>* row_status);

  const WireCounters& counters() const { return shared_.counters; }

  // Counts which experts the rows of Start choose; null: nothing is counted. Must outlive this.
  void CountRouting(RoutingCounter* counter) { counter_ = counter; }

  // Whether to note what each call took. Off at first.
  void NoteFrameSpans(bool on) { shared_.note_spans = on; }
  // What was noted of calls that were over since the last time.
  std::vector<FrameSpan> TakeFrameSpans() { return std::exchange(shared_.spans, {}); }

 private:
  // One layer between Start and Finish.
  struct Pending {
    RoutedLayer* layer = nullptr;
    absl::Time deadline;
    std::vector<absl::Status> row_status;
    std::optional<Combine> combine;
    std::optional<Exchange> exchange;
    std::optional<Exchange> again;    // of flagged rows, per expert
    std::vector<int32_t> sum_buffer;  // kept from layer to layer

    bool grid() const { return layer->dtype == tensor::v1::WIRE_DTYPE_BF16; }
  };

  Exchange::Request RequestOf(int slot, experts::v1::ReplyForm form);
  std::vector<int64_t> SendableRows(Pending& pending, const std::vector<bool>& alive) const;
  void AskFlaggedRows(int slot);
  void Drive(const Exchange& until);
  std::vector<Exchange*> Live();

  ExchangeShared shared_;
  RoutingCounter* counter_ = nullptr;
  std::array<Pending, kStepSlots> pending_;
};

}  // namespace tandem::gpu_worker
