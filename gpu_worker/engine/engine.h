// Engine: executes step plans. One thread owns it. A plan is proven first (plan_check.h), then the
// sequences take their pages and tokens, the rows go through the network, and each slice gets its
// token and log probabilities.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/time/time.h"
#include "gpu_worker/engine/forward.h"
#include "gpu_worker/engine/plan_check.h"
#include "gpu_worker/engine/row_answers.h"
#include "gpu_worker/engine/sequences.h"
#include "proto/engine.pb.h"

namespace tandem::gpu_worker {

class Engine {
 public:
  // `backend` and `experts` must outlive this.
  Engine(const ModelConfig& config, Backend& backend, ExpertLink* experts,
         const ForwardOptions& options = {});

  // `received`: when the plan arrived; its deadline counts from there. The result's status_code is
  // INVALID_ARGUMENT when the plan was refused (nothing has changed then), DEADLINE_EXCEEDED when
  // the step ran out of time (its sequences are lost).
  engine::v1::StepResult Run(const engine::v1::StepPlan& plan, absl::Time received,
                             const RouterProbe& probe = {});
  // Forgets every sequence.
  void Reset() { sequences_.Clear(); }

  const Sequences& sequences() const { return sequences_; }
  const ForwardTimes& times() const { return forward_.times(); }
  int halves() const { return forward_.halves(); }

 private:
  // A slice of the plan with what the step needs of it.
  struct Work {
    const engine::v1::SequenceSlice* slice = nullptr;
    Sequence* sequence = nullptr;
    int64_t row_begin = -1;  // -1: not computed, the sequence had failed before
  };

  absl::Status Execute(const engine::v1::StepPlan& plan, absl::Time deadline,
                       const RouterProbe& probe, engine::v1::StepResult* result);
  std::vector<Work> Admit(const engine::v1::StepPlan& plan);
  StepBatch MakeBatch(std::vector<Work>& works) const;
  void Answer(std::span<const Work> works, engine::v1::StepResult* result);
  void SampleAll(std::span<const Work> works, std::span<absl::Status> statuses,
                 engine::v1::StepResult* result);
  // chosen: indices into works, at most logit_rows_max.
  void SampleGroup(std::span<const Work> works, std::span<const int64_t> chosen,
                   std::span<absl::Status> statuses, engine::v1::StepResult* result);
  absl::Status AddPromptLogprobs(const Work& work, engine::v1::SliceResult* result);
  static void SetToken(const Work& work, RowAnswer answer, engine::v1::SliceResult* result);

  void EndTrace();

  const ModelConfig config_;
  Backend& backend_;
  ExpertLink* experts_;
  StepTrace* trace_;
  Forward forward_;
  Sequences sequences_;
  int64_t rows_ = 0;  // computed in the step that is running
};

}  // namespace tandem::gpu_worker
