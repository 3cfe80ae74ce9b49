#include "coordinator/scheduler/scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <random>
#include <set>

#include "coordinator/kv/page_allocator.h"

namespace tandem::coordinator {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

const SchedulerLimits kLimits = {
    .rows_max = 100, .prefill_rows_max = 40, .sequences_max = 8, .page_tokens = 64};

SequenceView Waiting(uint64_t key, uint32_t prompt, uint32_t total = 0) {
  return {key, prompt, std::max(prompt, total), 0, 0};
}
SequenceView Decoding(uint64_t key, uint32_t prompt, uint32_t total, uint32_t pages) {
  return {key, prompt, total, total - 1, pages};
}

TEST(SchedulerTest, NothingToDoIsAnEmptyStep) {
  const StepDecision step = ScheduleStep(kLimits, {}, {}, 10);
  EXPECT_THAT(step.slices, IsEmpty());
}

TEST(SchedulerTest, APromptIsCutIntoChunks) {
  StepDecision step = ScheduleStep(kLimits, {}, {Waiting(1, 70)}, 10);
  ASSERT_EQ(step.slices.size(), 1u);
  EXPECT_THAT(step.admitted, ElementsAre(1));
  EXPECT_TRUE(step.slices[0].prefill);
  EXPECT_EQ(step.slices[0].count, 40u);
  EXPECT_EQ(step.slices[0].new_pages, 2u);  // 71 tokens
  EXPECT_FALSE(step.slices[0].reaches_end);
  step = ScheduleStep(kLimits, {{1, 70, 70, 40, 2}}, {}, 8);
  EXPECT_EQ(step.slices[0].start, 40u);
  EXPECT_EQ(step.slices[0].count, 30u);
  EXPECT_EQ(step.slices[0].new_pages, 0u);
  EXPECT_TRUE(step.slices[0].reaches_end);
}

TEST(SchedulerTest, GeneratingSequencesComeFirst) {
  const StepDecision step =
      ScheduleStep(kLimits, {{1, 90, 90, 10, 2}, Decoding(2, 5, 9, 1)}, {Waiting(3, 9)}, 10);
  ASSERT_EQ(step.slices.size(), 2u);
  EXPECT_EQ(step.slices[0].key, 2u);
  EXPECT_FALSE(step.slices[0].prefill);
  EXPECT_EQ(step.slices[1].key, 1u);
  EXPECT_EQ(step.slices[1].count, 40u);  // and nothing is left for 3
  EXPECT_THAT(step.admitted, IsEmpty());
}

TEST(SchedulerTest, SeveralShortPromptsShareAStep) {
  const StepDecision step =
      ScheduleStep(kLimits, {}, {Waiting(1, 10), Waiting(2, 10), Waiting(3, 30)}, 10);
  EXPECT_THAT(step.admitted, ElementsAre(1, 2, 3));
  EXPECT_EQ(step.slices[2].count, 20u);
}

TEST(SchedulerTest, AdmissionIsInOrderWithoutOvertaking) {
  const StepDecision step = ScheduleStep(kLimits, {}, {Waiting(1, 1000), Waiting(2, 3)}, 10);
  EXPECT_THAT(step.slices, IsEmpty()) << "2 would fit, but 1 is first";
}

TEST(SchedulerTest, AReplayPrefillsThePromptAndFeedsTheAnswerAsDecodeRows) {
  SequenceView replay = Waiting(1, 10, 25);
  StepDecision step = ScheduleStep(kLimits, {}, {replay}, 10);
  EXPECT_TRUE(step.slices[0].prefill);
  EXPECT_EQ(step.slices[0].count, 10u);
  EXPECT_FALSE(step.slices[0].reaches_end) << "the next token is known already";
  replay.computed = 10;
  replay.pages = 1;
  step = ScheduleStep(kLimits, {replay}, {}, 10);
  EXPECT_FALSE(step.slices[0].prefill);
  EXPECT_EQ(step.slices[0].count, 15u);
  EXPECT_TRUE(step.slices[0].reaches_end);
}

TEST(SchedulerTest, WhenPagesRunOutTheYoungestGoes) {
  // 1 needs a second page for position 64.
  const std::vector<SequenceView> running = {Decoding(1, 5, 65, 1), Decoding(2, 5, 20, 1),
                                             Decoding(3, 5, 20, 1)};
  const StepDecision step = ScheduleStep(kLimits, running, {Waiting(4, 5)}, 0);
  EXPECT_THAT(step.preempted, ElementsAre(3));
  ASSERT_EQ(step.slices.size(), 1u);
  EXPECT_EQ(step.slices[0].key, 2u);
  EXPECT_THAT(step.admitted, IsEmpty());
}

TEST(SchedulerTest, TheYoungestMayHaveToGoItself) {
  const StepDecision step =
      ScheduleStep(kLimits, {Decoding(1, 5, 20, 1), Decoding(2, 5, 65, 1)}, {}, 0);
  EXPECT_THAT(step.preempted, ElementsAre(2));
  ASSERT_EQ(step.slices.size(), 1u);
  EXPECT_EQ(step.slices[0].key, 1u);
}

// A small cluster run to the end: sequences with random lengths, a random but sufficient number of
// pages, a random limit of rows. The invariants of scheduler.h hold in each step, every sequence
// ends with the tokens it asked for, and pages never collide.
class Simulation {
 public:
  explicit Simulation(uint32_t seed) : random_(seed), pages_(4 + seed % 23) {
    limits_ = {.rows_max = 4 + uint32_t(random_() % 60),
               .prefill_rows_max = 1 + uint32_t(random_() % 50),
               .sequences_max = 1 + uint32_t(random_() % 4),
               .page_tokens = 8};
    limits_.prefill_rows_max = std::min(limits_.prefill_rows_max, limits_.rows_max);
  }

  void Run() {
    int steps_empty = 0;
    for (int step = 0; step < 20000; ++step) {
      if (arrived_ < 30 && random_() % 3 == 0) Arrive();
      if (arrived_ == 30 && running_.empty() && waiting_.empty()) break;
      const StepDecision decision =
          ScheduleStep(limits_, Views(running_), Views(waiting_), pages_.pages_free());
      const bool idle = running_.empty() && waiting_.empty();
      steps_empty =
          decision.slices.empty() && decision.preempted.empty() && !idle ? steps_empty + 1 : 0;
      ASSERT_LE(steps_empty, 0) << "no progress";
      CheckAndApply(decision);
      pages_.CheckIntegrity();
    }
    EXPECT_EQ(finished_, 30u);
    EXPECT_EQ(pages_.pages_free(), pages_.pages());
  }

 private:
  struct Sequence {
    SequenceView view;
    uint32_t target = 0;
    std::vector<uint32_t> pages;
  };

  void Arrive() {
    ++arrived_;
    // Prompt and answer fit the pages alone.
    const uint32_t capacity = pages_.pages() * limits_.page_tokens;
    Sequence s;
    s.view = Waiting(arrived_, 1 + random_() % (capacity / 2));
    s.target = s.view.prompt + 1 + random_() % (capacity - s.view.prompt - 1);
    waiting_.push_back(s);
  }

  template <typename Sequences>
  static std::vector<SequenceView> Views(const Sequences& sequences) {
    std::vector<SequenceView> views;
    for (const Sequence& s : sequences) views.push_back(s.view);
    return views;
  }

  void CheckAndApply(const StepDecision& decision) {
    for (const uint64_t key : decision.admitted) {
      ASSERT_FALSE(waiting_.empty());
      ASSERT_EQ(waiting_.front().view.key, key) << "admission out of order";
      running_.push_back(waiting_.front());
      waiting_.pop_front();
    }
    ASSERT_LE(running_.size(), limits_.sequences_max);
    uint32_t rows = 0, prefill_rows = 0;
    std::set<uint64_t> seen;
    for (const SliceDecision& slice : decision.slices) {
      ASSERT_TRUE(seen.insert(slice.key).second);
      ASSERT_THAT(decision.preempted, testing::Not(testing::Contains(slice.key)));
      auto it = std::find_if(running_.begin(), running_.end(),
                             [&](const Sequence& s) { return s.view.key == slice.key; });
      ASSERT_NE(it, running_.end());
      ASSERT_EQ(slice.start, it->view.computed);
      ASSERT_GE(slice.count, 1u);
      rows += slice.count;
      if (slice.prefill || slice.count > 1) prefill_rows += slice.count;
      const auto got = pages_.Allocate(slice.new_pages);
      ASSERT_TRUE(got.has_value());
      it->pages.insert(it->pages.end(), got->begin(), got->end());
      it->view.pages = it->pages.size();
      it->view.computed += slice.count;
      ASSERT_LE(it->view.computed, slice.prefill ? it->view.prompt : it->view.total);
      ASSERT_GE(it->view.pages * limits_.page_tokens, it->view.computed);
      ASSERT_EQ(slice.reaches_end, it->view.computed == it->view.total);
      if (slice.reaches_end) ++it->view.total;
    }
    ASSERT_LE(rows, limits_.rows_max);
    ASSERT_LE(prefill_rows, limits_.prefill_rows_max);
    for (const uint64_t key : decision.preempted) {
      ASSERT_EQ(running_.back().view.key, key) << "not the youngest";
      Sequence s = running_.back();
      running_.pop_back();
      pages_.Free(s.pages);
      s.pages.clear();
      s.view.pages = s.view.computed = 0;
      waiting_.push_front(s);
    }
    for (size_t i = 0; i < running_.size();) {
      if (running_[i].view.total < running_[i].target + 1) {
        ++i;
        continue;
      }
      pages_.Free(running_[i].pages);
      running_.erase(running_.begin() + i);
      ++finished_;
    }
  }

  std::mt19937 random_;
  SchedulerLimits limits_;
  PageAllocator pages_;
  std::vector<Sequence> running_;
  std::deque<Sequence> waiting_;
  uint64_t arrived_ = 0;
  uint64_t finished_ = 0;
};

TEST(SchedulerTest, RandomLoadsRunToTheirEnds) {
  for (uint32_t seed = 0; seed < 200; ++seed) {
    SCOPED_TRACE(seed);
    Simulation(seed).Run();
    if (testing::Test::HasFatalFailure()) return;
  }
}

}  // namespace
}  // namespace tandem::coordinator
