// The plan check: a step plan is data from outside, so every number in it is proven before any
// state changes. A plan that passes can be executed without further checks.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "gpu_worker/engine/sequences.h"
#include "proto/engine.pb.h"

namespace tandem::gpu_worker {

struct PlanLimits {
  int64_t rows_max = 0;
  int64_t vocab_size = 0;
};

// INVALID_ARGUMENT, one sentence with expected and found, when the plan
//   starts a sequence that lives, or with an impossible prompt length or sampling parameter;
//   names an unknown sequence, or a page that is out of range or taken;
//   leaves a gap or overlap in positions, lacks pages for them, or has no or too many tokens or ids
//   outside the vocabulary; mixes prompt and answer positions in one slice, or names the wrong
//   kind; samples inside the prompt, or asks for log probabilities from the middle on (see
//   Sequence::last_logits).
// Positions of a failed sequence are not checked: its slices are answered with its failure.
absl::Status CheckPlan(const engine::v1::StepPlan& plan, const Sequences& sequences,
                       const PlanLimits& limits);

}  // namespace tandem::gpu_worker
