#include "eval_client/client/ask_all.h"

#include <gtest/gtest.h>

#include <atomic>
#include <set>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "eval_client/client/backoff.h"

namespace tandem::eval {
namespace {

// Hooks that answer at once and record everything; tests replace what they are about.
struct Recorder {
  AskAllHooks Hooks() {
    return {.ask = [](size_t) { return Answer{}; },
            .on_answer =
                [this](size_t index, const Answer&) {
                  answered.push_back(index);
                  return absl::OkStatus();
                },
            .on_tick = [this] { ++ticks; },
            .stop_requested = [this] { return stop.load(); },
            .cancel_running = [this] { cancelled.Notify(); }};
  }
  std::vector<size_t> answered;
  int ticks = 0;
  std::atomic<bool> stop{false};
  absl::Notification cancelled;
};

TEST(AskAll, AsksEveryQuestionOnce) {
  Recorder recorder;
  ASSERT_TRUE(AskAll(100, 8, absl::Seconds(1), recorder.Hooks()).ok());
  EXPECT_EQ(recorder.answered.size(), 100u);
  EXPECT_EQ(std::set<size_t>(recorder.answered.begin(), recorder.answered.end()).size(), 100u);
}

TEST(AskAll, OneAtATimeKeepsTheOrder) {
  Recorder recorder;
  ASSERT_TRUE(AskAll(20, 1, absl::Seconds(1), recorder.Hooks()).ok());
  for (size_t i = 0; i < 20; ++i) EXPECT_EQ(recorder.answered[i], i);
}

TEST(AskAll, NothingToAskIsDone) {
  Recorder recorder;
  EXPECT_TRUE(AskAll(0, 8, absl::Seconds(1), recorder.Hooks()).ok());
}

TEST(AskAll, ReachesItsConcurrencyAndNoMore) {
  Recorder recorder;
  AskAllHooks hooks = recorder.Hooks();
  absl::Mutex mutex;
  int running = 0, most = 0;
  hooks.ask = [&](size_t) {
    absl::MutexLock lock(&mutex);
    most = std::max(most, ++running);
    // All four meet here, or the wait ends and the test sees fewer.
    auto all_here = [&] { return most == 4; };
    mutex.AwaitWithTimeout(absl::Condition(&all_here), absl::Seconds(10));
    --running;
    return Answer{};
  };
  ASSERT_TRUE(AskAll(40, 4, absl::Seconds(1), hooks).ok());
  EXPECT_EQ(most, 4);
}

TEST(AskAll, StopLetsRunningQuestionsFinish) {
  Recorder recorder;
  AskAllHooks hooks = recorder.Hooks();
  hooks.ask = [&](size_t) {
    recorder.stop = true;
    absl::SleepFor(absl::Milliseconds(300));
    return Answer{};
  };
  EXPECT_TRUE(absl::IsCancelled(AskAll(100, 2, absl::Seconds(30), hooks)));
  EXPECT_GE(recorder.answered.size(), 2u);
  EXPECT_LT(recorder.answered.size(), 10u);
  EXPECT_FALSE(recorder.cancelled.HasBeenNotified());
}

TEST(AskAll, StopCancelsWhatOutlastsTheGraceAndForgetsIt) {
  Recorder recorder;
  AskAllHooks hooks = recorder.Hooks();
  hooks.ask = [&](size_t) {
    recorder.stop = true;
    recorder.cancelled.WaitForNotificationWithTimeout(absl::Seconds(30));
    Answer answer;
    answer.status = absl::CancelledError("cancelled");
    return answer;
  };
  const absl::Time start = absl::Now();
  EXPECT_TRUE(absl::IsCancelled(AskAll(10, 2, absl::Milliseconds(200), hooks)));
  EXPECT_LT(absl::Now() - start, absl::Seconds(20));
  EXPECT_TRUE(recorder.cancelled.HasBeenNotified());
  EXPECT_TRUE(recorder.answered.empty());
}

TEST(AskAll, AnErrorOfTheRecordEndsTheRun) {
  Recorder recorder;
  AskAllHooks hooks = recorder.Hooks();
  std::atomic<int> asked{0};
  hooks.ask = [&](size_t) {
    ++asked;
    return Answer{};
  };
  hooks.on_answer = [](size_t index, const Answer&) {
    return index == 3 ? absl::ResourceExhaustedError("disk full") : absl::OkStatus();
  };
  EXPECT_EQ(AskAll(1000, 1, absl::Seconds(1), hooks), absl::ResourceExhaustedError("disk full"));
  EXPECT_EQ(asked, 4);
}

TEST(Backoff, DoublesUpToItsLimitAndDrawsHalf) {
  const RetryPolicy policy = {.attempts_max = 9,
                              .first_wait = absl::Milliseconds(100),
                              .wait_max = absl::Milliseconds(1000)};
  const int full_ms[] = {100, 200, 400, 800, 1000, 1000};
  for (int attempts = 1; attempts <= 6; ++attempts) {
    for (uint64_t seed = 0; seed < 50; ++seed) {
      const absl::Duration wait = BackoffWait(policy, attempts, seed);
      EXPECT_GE(wait, absl::Milliseconds(full_ms[attempts - 1]) / 2);
      EXPECT_LE(wait, absl::Milliseconds(full_ms[attempts - 1]));
    }
  }
  EXPECT_NE(BackoffWait(policy, 1, 1), BackoffWait(policy, 1, 2));
  EXPECT_EQ(BackoffWait(policy, 1, 1), BackoffWait(policy, 1, 1));
}

TEST(Backoff, OnlyWhatWaitingCanChangeIsRetried) {
  EXPECT_TRUE(IsRetryable(absl::UnavailableError("")));
  EXPECT_TRUE(IsRetryable(absl::ResourceExhaustedError("")));
  for (const absl::Status& status :
       {absl::OkStatus(), absl::InvalidArgumentError(""), absl::DeadlineExceededError(""),
        absl::InternalError(""), absl::CancelledError(""), absl::FailedPreconditionError("")}) {
    EXPECT_FALSE(IsRetryable(status)) << status;
  }
}

}  // namespace
}  // namespace tandem::eval
