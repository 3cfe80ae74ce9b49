// Half-batches: a step cut in two, so that the experts of one half are asked while the device works
// on the other. Cut between sequences only: the rows of one read each other's keys layer by layer.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "gpu_worker/backend/backend.h"
#include "lib/model/config.h"

namespace tandem::gpu_worker {

// A part of a step: a step of its own, and which rows of the whole its rows are.
struct HalfBatch {
  StepBatch step;             // segments in the order of the whole
  std::vector<int64_t> rows;  // [step.rows()]
};

// What a segment costs the device in one layer, in multiply-adds: its rows pass the attention's
// projections and the shared expert, and each row meets the keys up to its own in the absorbed
// form.
int64_t SegmentCost(const ModelConfig& config, const Segment& segment);

// The step as one part, or as two when it has at least `rows_min` rows of at least two sequences;
// 0: never two. owners [rows]: rows with equal numbers stay together. Two parts cost as nearly the
// same as giving the dearest sequence that is left to the cheaper part makes them, and depend on
// the step alone; the first has at least as many rows as the second (BackendInfo::slot_rows_max).
std::vector<HalfBatch> SplitStep(const ModelConfig& config, const StepBatch& step,
                                 std::span<const int64_t> owners, int64_t rows_min);

// rows_min where nobody has said anything: 0 on a backend that needs the calling thread, where
// nothing would overlap, or has too little room for so many rows in a step that halves do not make
// the expert workers read their weights twice as often for the same arithmetic; else that many.
int64_t DefaultHalfRowsMin(const ModelConfig& config, const BackendInfo& backend);

}  // namespace tandem::gpu_worker
