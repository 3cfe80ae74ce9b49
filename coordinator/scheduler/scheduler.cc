#include "coordinator/scheduler/scheduler.h"

#include <algorithm>

#include "lib/base/check.h"

namespace tandem::coordinator {
namespace {

class Step {
 public:
  Step(const SchedulerLimits& limits, std::vector<SequenceView> running, uint32_t pages_free)
      : limits_(limits),
        running_(std::move(running)),
        pages_free_(pages_free),
        rows_left_(limits.rows_max),
        prefill_rows_left_(limits.prefill_rows_max) {}

  // One row for each sequence that generates, oldest first. The order decides who is preempted for
  // whom.
  void PlanDecodes() {
    for (size_t i = 0; i < running_.size() && rows_left_ > 0; ++i) {
      const SequenceView sequence = running_[i];
      if (sequence.computed >= sequence.prompt && sequence.total - sequence.computed == 1) {
        Plan(sequence, 1, /*counts_as_prefill=*/false);
      }
    }
  }

  // Prompts and replays of running sequences, oldest first.
  void PlanPrefills() {
    for (size_t i = 0; i < running_.size(); ++i) {
      const SequenceView sequence = running_[i];
      if (sequence.computed >= sequence.prompt && sequence.total - sequence.computed == 1) continue;
      PlanChunk(sequence);
    }
  }

  // Lets waiting sequences in while there are rows now and pages for all they are known to need.
  void Admit(const std::vector<SequenceView>& waiting) {
    // Whoever was preempted needs room more than newcomers, and a newcomer would be the next
    // victim.
    if (!decision_.preempted.empty()) return;
    for (const SequenceView& sequence : waiting) {
      if (running_.size() >= limits_.sequences_max || rows_left_ == 0 || prefill_rows_left_ == 0)
        return;
      if (PagesAtAdmission(sequence) > pages_free_) return;
      running_.push_back(sequence);
      decision_.admitted.push_back(sequence.key);
      PlanChunk(sequence);
    }
  }

  StepDecision Take() { return std::move(decision_); }

 private:
  void PlanChunk(const SequenceView& sequence) {
    const uint32_t end = sequence.computed < sequence.prompt ? sequence.prompt : sequence.total;
    const uint32_t count = std::min({end - sequence.computed, rows_left_, prefill_rows_left_});
    if (count > 0) Plan(sequence, count, /*counts_as_prefill=*/true);
  }

  // Known tokens and one more: room for the first token of the answer. All at once, so that only
  // generated tokens ever ask for more, and whoever is preempted for them has no slice in this step
  // yet.
  uint32_t PagesAtAdmission(const SequenceView& sequence) const {
    return PagesFor(sequence.total + 1, limits_.page_tokens);
  }

  void Plan(const SequenceView& sequence, uint32_t count, bool counts_as_prefill) {
    const uint32_t needed = sequence.pages == 0
                                ? PagesAtAdmission(sequence)
                                : PagesFor(sequence.computed + count, limits_.page_tokens);
    const uint32_t more = needed > sequence.pages ? needed - sequence.pages : 0;
    if (more > pages_free_) return MakeRoom(sequence);
    pages_free_ -= more;
    rows_left_ -= count;
    if (counts_as_prefill) prefill_rows_left_ -= count;
    decision_.slices.push_back({sequence.key, sequence.computed < sequence.prompt,
                                sequence.computed, count, more,
                                sequence.computed + count == sequence.total});
  }

  // Sends the youngest away, `needy` itself if it is that one. Its pages come free for the next
  // step, so one at a time is enough, and `needy` waits for that step.
  void MakeRoom(const SequenceView& needy) {
    if (!decision_.preempted.empty()) return;
    // The only one left needs pages that do not exist: whoever let it in has not checked its
    // length.
    TANDEM_CHECK_GT(running_.size(), 1u);
    const SequenceView youngest = running_.back();
    TANDEM_CHECK_GE(youngest.key, needy.key);
    for (const SliceDecision& slice : decision_.slices) TANDEM_CHECK_NE(slice.key, youngest.key);
    decision_.preempted.push_back(youngest.key);
    running_.pop_back();
  }

  const SchedulerLimits limits_;
  std::vector<SequenceView> running_;
  uint32_t pages_free_;
  uint32_t rows_left_;
  uint32_t prefill_rows_left_;
  StepDecision decision_;
};

}  // namespace

uint32_t PagesFor(uint32_t tokens, uint32_t page_tokens) {
  return static_cast<uint32_t>((uint64_t{tokens} + page_tokens - 1) / page_tokens);
}

StepDecision ScheduleStep(const SchedulerLimits& limits, const std::vector<SequenceView>& running,
                          const std::vector<SequenceView>& waiting, uint32_t pages_free) {
  Step step(limits, running, pages_free);
  step.PlanDecodes();
  step.PlanPrefills();
  step.Admit(waiting);
  return step.Take();
}

}  // namespace tandem::coordinator
