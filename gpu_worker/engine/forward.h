// Forward: one pass of a step's rows through the network, top to bottom. What a layer does on the
// device is Backend's, what the routed experts do is ExpertLink's; the order of both is here.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gpu_worker/backend/backend.h"
#include "gpu_worker/experts/link.h"
#include "lib/model/config.h"

namespace tandem::gpu_worker {

struct ForwardTimes {
  absl::Duration dispatch;     // reading rows, building and sending frames
  absl::Duration shared;       // shared expert, meanwhile
  absl::Duration expert_wait;  // after that, until the last answer is combined
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
  Forward(const ModelConfig& config, Backend& backend, ExpertLink* experts);

  // Runs all layers over `step`. owners [rows]: rows with equal numbers stand or fall together (one
  // sequence). row_status [rows]: why a row has no result, OK for the others, which are complete.
  // DEADLINE_EXCEEDED: no row is.
  absl::Status Run(const StepBatch& step, std::span<const int64_t> owners, absl::Time deadline,
                   std::vector<absl::Status>* row_status, const RouterProbe& probe = {});

  // Logits [row_ids.size(), vocab] of the last Run's rows, at most logit_rows_max at once.
  void Logits(std::span<const int64_t> row_ids, std::vector<float>* logits);

  const ForwardTimes& times() const { return times_; }  // of the last Run

 private:
  void Attention(int64_t layer);
  void Moe(int64_t layer, const StepBatch& step, absl::Time deadline, const RouterProbe& probe);
  void Spread(std::span<const int64_t> owners);

  const ModelConfig config_;
  Backend& backend_;
  ExpertLink* experts_;
  std::unique_ptr<DeviceRows> x_, h_, q_, attended_, shared_;
  std::vector<absl::Status> row_status_;  // [rows]
  ForwardTimes times_;
};

}  // namespace tandem::gpu_worker
