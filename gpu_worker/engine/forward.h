// Forward: one pass of a step's rows through the network, top to bottom. What a layer does on the
// device is Backend's, what the routed experts do is ExpertLink's; the order of both is here. A
// step may go as two halves: while the rows of one are at the expert workers the device works on
// the other.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/engine/half_batches.h"
#include "gpu_worker/engine/step_trace.h"
#include "gpu_worker/experts/link.h"
#include "lib/model/config.h"

namespace tandem::gpu_worker {

struct ForwardOptions {
  int64_t half_rows_min = 0;   // SplitStep's rows_min; 0: never two halves
  StepTrace* trace = nullptr;  // null: nothing is traced; else it outlives this
};

// Of both halves together.
struct ForwardTimes {
  absl::Duration dispatch;     // reading rows, building and sending frames
  absl::Duration shared;       // shared expert, meanwhile
  absl::Duration expert_wait;  // until the last answer is combined, with nothing else to do
};

// For tests of arithmetic: looks into and overrides the router, by layer.
struct RouterProbe {
  const std::vector<std::vector<uint32_t>>* forced_ids =
      nullptr;                                   // [layers][rows * k]; empty: not forced
  std::vector<RouterChoice>* choices = nullptr;  // [layers] receives what was chosen
};

class Forward {
 public:
  // `backend` and `experts` must outlive this; `experts` may be null for a model without MoE
  // layers.
  Forward(const ModelConfig& config, Backend& backend, ExpertLink* experts,
          const ForwardOptions& options = {});

  // Runs all layers over `step`. owners [rows]: rows with equal numbers stand or fall together (one
  // sequence). row_status [rows]: why a row has no result, OK for the others, which are complete.
  // DEADLINE_EXCEEDED: no row is.
  absl::Status Run(const StepBatch& step, std::span<const int64_t> owners, absl::Time deadline,
                   std::vector<absl::Status>* row_status, const RouterProbe& probe = {});

  // Logits of the last Run's rows, at most logit_rows_max at once: Backend::ComputeLogits.
  RowLogits& ComputeLogits(std::span<const int64_t> row_ids);

  const ForwardTimes& times() const { return times_; }  // of the last Run
  int halves() const { return halves_; }                // of the last Run: 1 or 2

 private:
  // What one slot holds of the step.
  struct Half {
    int slot = 0;
    HalfBatch batch;
    std::vector<int64_t> owners;           // [rows]
    std::vector<absl::Status> row_status;  // [rows]
    std::unique_ptr<DeviceRows> x, shared;
    // The MoE layer whose rows are away.
    bool away = false;
    RoutedLayer layer;
    RouterChoice choice;
    std::vector<uint32_t> forced_ids;  // [rows * k] or empty

    int64_t rows() const { return batch.step.rows(); }
  };

  void Begin(const StepBatch& step, std::span<const int64_t> owners);
  absl::Status RunLayer(int64_t layer, Half& half, absl::Time deadline, const RouterProbe& probe);
  void Attention(int64_t layer, Half& half);
  void StartExperts(int64_t layer, Half& half, absl::Time deadline, const RouterProbe& probe);
  void Route(int64_t layer, Half& half, const RouterProbe& probe);
  void SharedExpert(int64_t layer, Half& half);
  void Send(int64_t layer, Half& half, absl::Time deadline);
  void FinishExperts(Half& half, const RouterProbe& probe);
  static void Spread(Half& half);
  std::span<Half> InUse() { return std::span(half_).first(halves_); }

  const ModelConfig config_;
  Backend& backend_;
  ExpertLink* experts_;
  const ForwardOptions options_;
  // One half at a time works on these.
  std::unique_ptr<DeviceRows> h_, q_, attended_;
  std::array<Half, kStepSlots> half_;
  int halves_ = 0;
  std::vector<LogitRow> logit_rows_;  // [rows of the step] where each row's x is
  ForwardTimes times_;
};

}  // namespace tandem::gpu_worker
