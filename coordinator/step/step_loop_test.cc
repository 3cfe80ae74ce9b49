// The step loop against a scripted GPU worker over real gRPC: answers are right whatever dies,
// pages never collide, every request ends exactly once.
#include "coordinator/step/step_loop.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <thread>

#include "absl/synchronization/notification.h"
#include "coordinator/step/scripted_engine.h"
#include "lib/base/log.h"
#include "lib/model/text/byte_level.h"

namespace tandem::coordinator {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

// Token ids are bytes.
std::unique_ptr<Tokenizer> ByteTokenizer() {
  TokenizerFields fields;
  fields.source = "test";
  fields.model = "gpt2";
  fields.pre = "deepseek-llm";
  for (int byte = 0; byte < 256; ++byte) {
    fields.tokens.push_back(text::RawToByteLevel(std::string(1, static_cast<char>(byte))));
    fields.token_types.push_back(1);
  }
  auto tokenizer = Tokenizer::FromGgufFields(fields);
  EXPECT_TRUE(tokenizer.ok()) << tokenizer.status();
  return *std::move(tokenizer);
}

// What a client saw.
struct Seen {
  absl::Mutex mutex;
  std::string text;
  std::vector<uint32_t> ids;
  std::vector<sampling::v1::PositionLogprobs> prompt_logprobs;
  inference::v1::GenerateChunk last;
  absl::Status status;
  int finishes = 0;
  std::shared_ptr<std::atomic<bool>> cancelled;

  bool Ended() { return finishes > 0; }
  bool Wait(absl::Duration wait_max = absl::Seconds(20)) {
    absl::MutexLock lock(&mutex);
    return mutex.AwaitWithTimeout(absl::Condition(this, &Seen::Ended), wait_max);
  }
};

class StepLoopTest : public testing::Test {
 protected:
  void SetUp() override { base::InitLogging("test", base::LogLevel::kError, false); }

  void StartEngine(ScriptedEngine::Script script = {}) {
    engine_ = std::make_unique<ScriptedEngine>(std::move(script));
  }

  void StartLoop(StepLoopOptions options = {}) {
    options.reconnect_wait = absl::Milliseconds(5);
    ClusterView cluster;
    cluster.readiness = [this] {
      absl::MutexLock lock(&mutex_);
      return readiness_;
    };
    cluster.gpu_workers = [this] {
      absl::MutexLock lock(&mutex_);
      return engine_ == nullptr ? std::vector<ReadyWorker>{}
                                : std::vector<ReadyWorker>{{worker_id_, engine_->address()}};
    };
    loop_ = std::make_unique<StepLoop>(options, cluster, tokenizer_.get(), &counters_,
                                       &base::RealClock());
  }

  GenerationRequest Request(const std::string& prompt, uint32_t max_tokens) {
    GenerationRequest request;
    request.id = prompt.substr(0, 8);
    for (const char c : prompt) request.prompt.push_back(static_cast<unsigned char>(c));
    request.max_tokens = max_tokens;
    request.arrival = base::RealClock().Monotonic();
    return request;
  }

  std::shared_ptr<Seen> Submit(GenerationRequest request) {
    auto seen = std::make_shared<Seen>();
    seen->cancelled = request.cancelled;
    request.send = [seen](inference::v1::GenerateChunk chunk) {
      absl::MutexLock lock(&seen->mutex);
      seen->text += chunk.text();
      for (const auto& token : chunk.tokens()) seen->ids.push_back(token.id());
      for (const auto& p : chunk.prompt_logprobs()) seen->prompt_logprobs.push_back(p);
      seen->last = chunk;
    };
    request.finish = [seen](const absl::Status& status) {
      absl::MutexLock lock(&seen->mutex);
      seen->status = status;
      ++seen->finishes;
    };
    const absl::Status status = loop_->Submit(std::move(request));
    if (!status.ok()) {
      absl::MutexLock lock(&seen->mutex);
      seen->status = status;
      seen->finishes = 1;
    }
    return seen;
  }

  static std::vector<uint32_t> Expected(const std::string& prompt, uint32_t count) {
    std::vector<uint32_t> tokens;
    for (const char c : prompt) tokens.push_back(static_cast<unsigned char>(c));
    const size_t start = tokens.size();
    for (uint32_t i = 0; i < count; ++i) tokens.push_back(NextToken(tokens));
    return {tokens.begin() + start, tokens.end()};
  }

  // All answers, whatever their order.
  void ExpectAnswers(const std::vector<std::string>& prompts,
                     const std::vector<std::shared_ptr<Seen>>& seen, uint32_t count) {
    for (size_t i = 0; i < prompts.size(); ++i) {
      ASSERT_TRUE(seen[i]->Wait()) << i;
      EXPECT_TRUE(seen[i]->status.ok()) << seen[i]->status;
      EXPECT_EQ(seen[i]->ids, Expected(prompts[i], count)) << i;
      EXPECT_EQ(seen[i]->finishes, 1);
    }
  }

  void ExpectReleased() {
    for (int i = 0; i < 200 && engine_->sequences_held() > 0; ++i)
      absl::SleepFor(absl::Milliseconds(10));
    EXPECT_EQ(engine_->sequences_held(), 0u);
    EXPECT_THAT(engine_->violations(), IsEmpty());
    EXPECT_EQ(loop_->requests(), 0u);
  }

  static std::vector<std::string> Prompts(int count) {
    std::vector<std::string> prompts;
    for (int i = 0; i < count; ++i)
      prompts.push_back(absl::StrCat("prompt ", i, std::string(i * 7 % 40, '.')));
    return prompts;
  }

  telemetry::Metrics metrics_;
  CoordinatorMetrics counters_{&metrics_};
  std::unique_ptr<Tokenizer> tokenizer_ = ByteTokenizer();
  absl::Mutex mutex_;
  absl::Status readiness_;
  std::string worker_id_ = "gpu-1";
  std::unique_ptr<ScriptedEngine> engine_;
  std::unique_ptr<StepLoop> loop_;  // first to go
};

TEST_F(StepLoopTest, OneAnswer) {
  StartEngine();
  StartLoop();
  auto seen = Submit(Request("hello", 20));
  ExpectAnswers({"hello"}, {seen}, 20);
  EXPECT_EQ(seen->text.size(), 20u);
  EXPECT_EQ(seen->last.finish_reason(), inference::v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(seen->last.prompt_tokens(), 5u);
  EXPECT_EQ(seen->last.completion_tokens(), 20u);
  EXPECT_GE(seen->last.total_us(), seen->last.first_token_us());
  ExpectReleased();
}

TEST_F(StepLoopTest, StopTokensAndStopStringsEndAnswers) {
  StartEngine();
  StartLoop();
  const auto expected = Expected("hello", 30);
  GenerationRequest by_token = Request("hello", 30);
  by_token.sampling.add_stop_token_ids(expected[6]);
  auto token = Submit(std::move(by_token));
  GenerationRequest by_string = Request("hello", 30);
  by_string.stops = {std::string(expected.begin() + 4, expected.begin() + 7)};
  auto string = Submit(std::move(by_string));
  ASSERT_TRUE(token->Wait());
  EXPECT_EQ(token->last.finish_reason(), inference::v1::FINISH_REASON_STOP);
  EXPECT_EQ(token->last.stop_token_id(), expected[6]);
  const size_t first = std::find(expected.begin(), expected.end(), expected[6]) - expected.begin();
  EXPECT_EQ(token->text, std::string(expected.begin(), expected.begin() + first));
  ASSERT_TRUE(string->Wait());
  EXPECT_EQ(string->last.stop_string(), std::string(expected.begin() + 4, expected.begin() + 7));
  EXPECT_EQ(string->text, std::string(expected.begin(), expected.begin() + 4));
  ExpectReleased();
}

TEST_F(StepLoopTest, PromptLogprobsComeOnceAndWhole) {
  StartEngine();
  StepLoopOptions options;
  options.prefill_rows_max = 3;
  StartLoop(options);
  GenerationRequest score = Request("score this prompt", 0);
  score.prompt_logprobs_plus1 = 1;
  auto scored = Submit(std::move(score));
  GenerationRequest both = Request("and this one", 2);
  both.prompt_logprobs_plus1 = 1;
  auto answered = Submit(std::move(both));
  ASSERT_TRUE(scored->Wait());
  EXPECT_TRUE(scored->status.ok()) << scored->status;
  ASSERT_EQ(scored->prompt_logprobs.size(), 16u);
  for (size_t i = 0; i < 16; ++i)
    EXPECT_EQ(scored->prompt_logprobs[i].chosen().logprob(), -float(i + 1));
  EXPECT_TRUE(scored->ids.empty());
  ASSERT_TRUE(answered->Wait());
  EXPECT_EQ(answered->prompt_logprobs.size(), 11u);
  EXPECT_EQ(answered->ids.size(), 2u);
  ExpectReleased();
}

TEST_F(StepLoopTest, ManyAtOnceWithTooFewPagesAllGetTheirAnswers) {
  ScriptedEngine::Script script;
  script.kv_pages = 20;  // 160 tokens; each request needs up to 98
  script.rows_max = 24;
  StartEngine(script);
  StepLoopOptions options;
  options.prefill_rows_max = 16;
  StartLoop(options);
  const auto prompts = Prompts(24);
  std::vector<std::shared_ptr<Seen>> seen;
  for (const auto& prompt : prompts) seen.push_back(Submit(Request(prompt, 50)));
  ExpectAnswers(prompts, seen, 50);
  EXPECT_GT(counters_.preemptions.Value(), 0);
  ExpectReleased();
}

TEST_F(StepLoopTest, ALostStreamIsReplayedTokenForToken) {
  ScriptedEngine::Script script;
  script.before_step = [](int step, const engine::v1::StepPlan&) {
    return step % 9 == 0 ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "gone") : grpc::Status::OK;
  };
  StartEngine(script);
  StartLoop();
  const auto prompts = Prompts(8);
  std::vector<std::shared_ptr<Seen>> seen;
  for (const auto& prompt : prompts) seen.push_back(Submit(Request(prompt, 30)));
  ExpectAnswers(prompts, seen, 30);
  EXPECT_GT(engine_->streams(), 3);
  ExpectReleased();
}

TEST_F(StepLoopTest, AnotherGpuWorkerTakesOver) {
  ScriptedEngine::Script slow;
  slow.step_time = absl::Milliseconds(5);
  StartEngine(slow);
  StartLoop();
  auto seen = Submit(Request("take over", 60));
  while (engine_->steps() < 10) absl::SleepFor(absl::Milliseconds(2));
  std::unique_ptr<ScriptedEngine> old;
  {
    absl::MutexLock lock(&mutex_);
    old = std::move(engine_);
    readiness_ = absl::UnavailableError("no GPU worker is ready");
  }
  old.reset();
  absl::SleepFor(absl::Milliseconds(50));
  auto fresh = std::make_unique<ScriptedEngine>(slow);
  {
    absl::MutexLock lock(&mutex_);
    engine_ = std::move(fresh);
    worker_id_ = "gpu-2";
    readiness_ = absl::OkStatus();
  }
  ExpectAnswers({"take over"}, {seen}, 60);
  ExpectReleased();
}

TEST_F(StepLoopTest, ARequestThatKillsWorkersIsGivenUpAloneAndOthersLive) {
  ScriptedEngine::Script script;
  script.before_step = [](int, const engine::v1::StepPlan& plan) {
    for (const auto& slice : plan.slices()) {
      if (slice.token_ids(0) == '!') return grpc::Status(grpc::StatusCode::INTERNAL, "crash");
    }
    return grpc::Status::OK;
  };
  StartEngine(script);
  StartLoop();
  std::vector<std::string> prompts = Prompts(4);
  std::vector<std::shared_ptr<Seen>> seen;
  for (const auto& prompt : prompts) seen.push_back(Submit(Request(prompt, 20)));
  auto poison = Submit(Request("!poison", 20));
  ExpectAnswers(prompts, seen, 20);
  ASSERT_TRUE(poison->Wait());
  EXPECT_EQ(poison->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(poison->status.message()), HasSubstr("given up after 3 lost steps"));
  ExpectReleased();
}

TEST_F(StepLoopTest, AFailedSliceEndsItsRequestAlone) {
  ScriptedEngine::Script script;
  script.slice_status = [](const engine::v1::SequenceSlice& slice) {
    return slice.token_ids(0) == '!' ? absl::UnavailableError("expert 3 of layer 2 is on no worker")
                                     : absl::OkStatus();
  };
  StartEngine(script);
  StartLoop();
  auto good = Submit(Request("good", 20));
  auto bad = Submit(Request("!bad", 20));
  ExpectAnswers({"good"}, {good}, 20);
  ASSERT_TRUE(bad->Wait());
  EXPECT_EQ(bad->status, absl::UnavailableError("expert 3 of layer 2 is on no worker"));
  ExpectReleased();
}

TEST_F(StepLoopTest, CancelledAndOverdueRequestsEndAndFreeTheirPages) {
  ScriptedEngine::Script script;
  script.step_time = absl::Milliseconds(5);
  StartEngine(script);
  StartLoop();
  auto cancelled = Submit(Request("cancel me", 400));
  GenerationRequest late = Request("too late", 400);
  late.deadline = absl::Now() + absl::Milliseconds(100);
  auto overdue = Submit(std::move(late));
  while (engine_->steps() < 5) absl::SleepFor(absl::Milliseconds(2));
  cancelled->cancelled->store(true);
  ASSERT_TRUE(cancelled->Wait());
  EXPECT_EQ(cancelled->status.code(), absl::StatusCode::kCancelled);
  ASSERT_TRUE(overdue->Wait());
  EXPECT_EQ(overdue->status.code(), absl::StatusCode::kDeadlineExceeded);
  ExpectReleased();
}

TEST_F(StepLoopTest, ACancellationDuringAStepReleasesWithTheNext) {
  ScriptedEngine::Script script;
  absl::Notification in_step, go_on;
  std::vector<engine::v1::StepPlan> plans;  // of the engine's thread until the end
  script.before_step = [&](int step, const engine::v1::StepPlan& plan) {
    plans.push_back(plan);
    if (step == 3) {
      in_step.Notify();
      go_on.WaitForNotificationWithTimeout(absl::Seconds(10));
    }
    return grpc::Status::OK;
  };
  StartEngine(script);
  StartLoop();
  auto cancelled = Submit(Request("leaves", 400));
  ASSERT_TRUE(in_step.WaitForNotificationWithTimeout(absl::Seconds(10)));
  cancelled->cancelled->store(true);
  go_on.Notify();
  ASSERT_TRUE(cancelled->Wait());
  EXPECT_EQ(cancelled->status.code(), absl::StatusCode::kCancelled);
  ExpectReleased();
  loop_.reset();
  engine_.reset();
  ASSERT_EQ(plans.size(), 4u);
  EXPECT_EQ(plans[3].slices_size(), 0);
  ASSERT_EQ(plans[3].releases_size(), 1);
  EXPECT_EQ(plans[3].releases(0), plans[0].starts(0).sequence_id());
}

TEST_F(StepLoopTest, AStepTakesNoLongerThanItsRequestsMayWait) {
  ScriptedEngine::Script script;
  absl::Mutex mutex;
  std::map<int, uint64_t> slowest;  // slices in the plan: longest deadline_ms
  script.before_step = [&](int, const engine::v1::StepPlan& plan) {
    absl::MutexLock lock(&mutex);
    slowest[plan.slices_size()] = std::max(slowest[plan.slices_size()], plan.deadline_ms());
    return grpc::Status::OK;
  };
  script.step_time = absl::Milliseconds(5);
  StartEngine(script);
  StartLoop();
  GenerationRequest soon = Request("soon", 20);
  soon.deadline = absl::Now() + absl::Seconds(30);
  ExpectAnswers({"soon"}, {Submit(std::move(soon))}, 20);
  {
    absl::MutexLock lock(&mutex);
    EXPECT_LE(slowest[1], 30'000u);
    EXPECT_GE(slowest[1], 20'000u);
  }
  GenerationRequest later = Request("later", 20);
  later.deadline = absl::Now() + absl::Seconds(60);
  auto with_deadline = Submit(std::move(later));
  ExpectAnswers({"later", "any time"}, {with_deadline, Submit(Request("any time", 20))}, 20);
  ExpectReleased();
  absl::MutexLock lock(&mutex);
  EXPECT_EQ(slowest[0], 120'000u);  // nothing but releases
  EXPECT_EQ(slowest[2], 120'000u);  // one of the two waits for ever
}

TEST_F(StepLoopTest, AnOverdueStepEndsItsRequestsAndKeepsTheWorker) {
  ScriptedEngine::Script script;
  script.step_status = [](const engine::v1::StepPlan& plan) {
    if (plan.slices().empty() || plan.deadline_ms() > 1000) return absl::OkStatus();
    absl::SleepFor(absl::Milliseconds(plan.deadline_ms()));
    return absl::DeadlineExceededError("the step's deadline passed");
  };
  StartEngine(script);
  StartLoop();
  GenerationRequest first = Request("first", 20), second = Request("second", 20);
  first.deadline = absl::Now() + absl::Milliseconds(300);
  second.deadline = absl::Now() + absl::Milliseconds(400);
  for (const auto& overdue : {Submit(std::move(first)), Submit(std::move(second))}) {
    ASSERT_TRUE(overdue->Wait(absl::Seconds(5)));
    EXPECT_EQ(overdue->status.code(), absl::StatusCode::kDeadlineExceeded) << overdue->status;
  }
  ExpectAnswers({"patient"}, {Submit(Request("patient", 20))}, 20);
  ExpectReleased();
  EXPECT_EQ(engine_->streams(), 1);
}

TEST_F(StepLoopTest, WhoeverSeesItReadySeesWhatItComputesWith) {
  StartEngine();
  StartLoop();
  while (!loop_->Readiness().ok()) std::this_thread::yield();
  ASSERT_TRUE(loop_->engine().has_value());
  EXPECT_EQ(loop_->engine()->precision(), "bf16");
  EXPECT_EQ(loop_->engine()->attention(), "flash");
  EXPECT_EQ(engine_->steps(), 0);
}

TEST_F(StepLoopTest, AChangeOfTheClusterWakesAnIdleLoop) {
  StartEngine();
  StartLoop();
  while (!loop_->Readiness().ok()) std::this_thread::yield();
  absl::SleepFor(absl::Milliseconds(50));  // now it waits for a second
  ScriptedEngine::Script other;
  other.kv_pages = 7;
  auto next = std::make_unique<ScriptedEngine>(other);
  {
    absl::MutexLock lock(&mutex_);
    std::swap(engine_, next);
    worker_id_ = "another";
  }
  const absl::Time changed = absl::Now();
  loop_->Wake();
  while (loop_->engine()->kv_pages() != 7 && absl::Now() - changed < absl::Seconds(5))
    absl::SleepFor(absl::Milliseconds(1));
  EXPECT_LT(absl::Now() - changed, absl::Milliseconds(500));
  loop_.reset();
}

TEST_F(StepLoopTest, WithoutAClusterRequestsWaitAndThenSayWhy) {
  StartEngine();
  readiness_ = absl::UnavailableError("1 of 2 CPU workers");
  StepLoopOptions options;
  options.ready_wait = absl::Milliseconds(200);
  StartLoop(options);
  const absl::Time start = absl::Now();
  auto patient = Submit(Request("patient", 5));
  GenerationRequest timed = Request("timed", 5);
  timed.deadline = absl::Now() + absl::Seconds(20);
  auto waiting = Submit(std::move(timed));
  ASSERT_TRUE(patient->Wait());
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(200));
  EXPECT_EQ(patient->status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(patient->status.message()), HasSubstr("1 of 2 CPU workers"));
  {
    absl::MutexLock lock(&mutex_);
    readiness_ = absl::OkStatus();
  }
  ExpectAnswers({"timed"}, {waiting}, 5);
}

TEST_F(StepLoopTest, AFullQueueAndADrainRefuse) {
  StartEngine();
  readiness_ = absl::UnavailableError("not yet");
  StepLoopOptions options;
  options.requests_max = 2;
  StartLoop(options);
  auto a = Submit(Request("a", 5)), b = Submit(Request("b", 5)), c = Submit(Request("c", 5));
  EXPECT_EQ(c->status.code(), absl::StatusCode::kResourceExhausted);
  loop_->Drain();
  EXPECT_EQ(Submit(Request("d", 5))->status.code(), absl::StatusCode::kUnavailable);
  {
    absl::MutexLock lock(&mutex_);
    readiness_ = absl::OkStatus();
  }
  ExpectAnswers({"a", "b"}, {a, b}, 5);
}

TEST_F(StepLoopTest, APromptLargerThanTheCacheIsRefusedWithNumbersAndALongAnswerIsCut) {
  ScriptedEngine::Script script;
  script.kv_pages = 4;
  StartEngine(script);
  StartLoop();
  auto large = Submit(Request(std::string(40, 'x'), 5));
  ASSERT_TRUE(large->Wait());
  EXPECT_EQ(large->status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(large->status.message()),
              HasSubstr("has 40 tokens, the KV cache of the GPU worker holds 32"));
  auto cut = Submit(Request("short", 1000));
  ExpectAnswers({"short"}, {cut}, 27);
  EXPECT_EQ(cut->last.finish_reason(), inference::v1::FINISH_REASON_LENGTH);
  ExpectReleased();
}

TEST_F(StepLoopTest, AStepThatHangsIsLostInTime) {
  ScriptedEngine::Script script;
  std::atomic<bool> hang{true};
  script.before_step = [&hang](int step, const engine::v1::StepPlan&) {
    if (step == 3 && hang.exchange(false)) absl::SleepFor(absl::Seconds(2));
    return grpc::Status::OK;
  };
  StartEngine(script);
  StepLoopOptions options;
  options.step_timeout = absl::Milliseconds(200);
  StartLoop(options);
  auto seen = Submit(Request("hang", 10));
  ExpectAnswers({"hang"}, {seen}, 10);
  EXPECT_EQ(engine_->streams(), 2);
}

TEST_F(StepLoopTest, DestructionEndsEveryRequest) {
  ScriptedEngine::Script script;
  script.step_time = absl::Milliseconds(20);
  StartEngine(script);
  StartLoop();
  std::vector<std::shared_ptr<Seen>> seen;
  for (const auto& prompt : Prompts(5)) seen.push_back(Submit(Request(prompt, 400)));
  absl::SleepFor(absl::Milliseconds(60));
  loop_.reset();
  for (const auto& one : seen) {
    EXPECT_EQ(one->finishes, 1);
    EXPECT_EQ(one->status.code(), absl::StatusCode::kUnavailable);
  }
}

}  // namespace
}  // namespace tandem::coordinator
