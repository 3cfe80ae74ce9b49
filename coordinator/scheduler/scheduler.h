// The scheduler: what the next step computes, as a pure function of what is running, what waits and
// how much memory is left. Continuous batching with chunked prefill: sequences that generate get
// their row first, then prompts get what is left of the step, in order of arrival. When pages run
// out, the youngest sequence gives its pages back and is replayed later.
#pragma once

#include <cstdint>
#include <vector>

namespace tandem::coordinator {

struct SchedulerLimits {
  uint32_t rows_max = 0;  // of a step, as the GPU worker says
  uint32_t prefill_rows_max =
      0;                       // of a step, for prompts and replays, so that answers keep flowing
  uint32_t sequences_max = 0;  // running at once
  uint32_t page_tokens = 64;
};

// A sequence as the scheduler sees it. Positions [0, computed) lie in the KV pages; [computed,
// total) are known tokens that are still to be computed; position `total` is what a sample at total
// - 1 chooses.
struct SequenceView {
  uint64_t key = 0;       // unique; rises with arrival
  uint32_t prompt = 0;    // tokens of the prompt, at least 1
  uint32_t total = 0;     // prompt and generated tokens, total >= prompt
  uint32_t computed = 0;  // computed < total
  uint32_t pages =
      0;  // held; 0 when waiting, else enough for the tokens it had when it was admitted
};

struct SliceDecision {
  uint64_t key = 0;
  bool prefill = false;  // positions below `prompt`, else decode rows
  uint32_t start = 0;    // == computed
  uint32_t count = 0;
  uint32_t new_pages = 0;    // to be allocated for this slice
  bool reaches_end = false;  // start + count == total: the next token may be sampled
};

struct StepDecision {
  std::vector<SliceDecision> slices;
  std::vector<uint64_t> admitted;  // from waiting to running; each has a slice
  // From running back to the front of waiting: their pages are free after this step, not in it,
  // because the worker drops a sequence's state at the step's end.
  std::vector<uint64_t> preempted;
};

// `running` and `waiting` in order of arrival (ascending keys within each). What holds of the
// result: at most rows_max rows, at most prefill_rows_max of them beyond one per generating
// sequence, no more new pages than pages_free, no sequence twice, admission strictly in order. If
// anything runs or waits and its pages can be had, the result is not empty: the oldest always gets
// on, provided every sequence alone fits the pages there are.
StepDecision ScheduleStep(const SchedulerLimits& limits, const std::vector<SequenceView>& running,
                          const std::vector<SequenceView>& waiting, uint32_t pages_free);

// Pages that `tokens` positions need.
uint32_t PagesFor(uint32_t tokens, uint32_t page_tokens);

}  // namespace tandem::coordinator
