// The time line of steps: what is on it, that viewers can read it, and that it stays bounded.
#include <gtest/gtest-spi.h>
#include <gtest/gtest.h>

#include <set>

#include "absl/time/clock.h"
#include "gpu_worker/engine/trace_file.h"
#include "tests/engine/harness.h"
#include "tests/engine/trace_check.h"

namespace tandem::gpu_worker {
namespace {

// A step made by hand: times in microseconds.
std::shared_ptr<TracedStep> HandMade() {
  auto step = std::make_shared<TracedStep>();
  step->step_id = 7;
  step->rows = 3;
  step->halves = 2;
  step->begin_ns = 1'000'000;
  step->end_ns = 1'100'000;
  const auto at = [&](int64_t us) { return step->begin_ns + us * 1000; };
  step->host = {{"dispatch", 0, 4, at(10), at(20)},
                {"dispatch", 1, 4, at(30), at(40)},
                {"combine", 0, 4, at(60), at(70)},
                {"combine", 1, 4, at(80), at(90)}};
  step->device = {{"attend", 0, 4, at(25), at(35)}, {"attend", 0, 4, at(5), at(27)}};
  step->frames = {
      {"b:1", 1, 4, 1, 8, at(35), at(75), 9'500, 3, true},
      {"b:1", 0, 4, 2, 16, at(15), at(55), 12'345, 2, true},
      {"a:\"1", 0, 4, 1, 1, at(16), at(50), 0, 0, false},
  };
  return step;
}

TEST(TraceFileTest, AStepByHand) {
  const std::vector<std::shared_ptr<const TracedStep>> steps = {HandMade()};
  const nlohmann::json events = CheckTrace(TraceJson(steps));
  const auto step = SpansOf(events, "steps");
  ASSERT_EQ(step.size(), 1u);
  EXPECT_EQ(step[0].at("name"), "step 7");
  EXPECT_EQ(step[0].at("ts"), 0.0);
  EXPECT_EQ(step[0].at("dur"), 100.0);
  EXPECT_EQ(step[0].at("args").at("halves"), 2);
  // Two calls that overlap are on two tracks of their worker, two device spans likewise.
  const auto first = SpansOf(events, "b:1"), second = SpansOf(events, "b:1 (2)");
  ASSERT_EQ(first.size(), 2u);
  ASSERT_EQ(second.size(), 1u);
  EXPECT_EQ(second[0].at("args").at("half"), "half B");
  EXPECT_EQ(second[0].at("args").at("compute_us"), 9.5);
  EXPECT_EQ(SpansOf(events, "half A (2)").size(), 1u);
  EXPECT_EQ(SpansOf(events, "a:\"1").size(), 1u);
  int arrows = 0;
  for (const auto& event : events) arrows += event.at("ph") == "s";
  EXPECT_EQ(arrows, 2) << "one for each call that was answered";
}

TEST(TraceFileTest, NothingIsAnEmptyTraceStill) {
  const nlohmann::json events = CheckTrace(TraceJson({}));
  for (const auto& event : events) EXPECT_EQ(event.at("ph"), "M");
}

TEST(TraceCheckTest, SeesWhatIsWrong) {
  const char* names = R"([{"ph":"M","name":"process_name","pid":1,"tid":0,"args":{"name":"p"}},
    {"ph":"M","name":"thread_name","pid":1,"tid":1,"args":{"name":"t"}},)";
  const auto failures = [&](const std::string& events) {
    testing::TestPartResultArray results;
    {
      testing::ScopedFakeTestPartResultReporter reporter(
          testing::ScopedFakeTestPartResultReporter::INTERCEPT_ONLY_CURRENT_THREAD, &results);
      CheckTrace(names + events + "]");
    }
    return results.size();
  };
  const std::string good = R"({"ph":"X","name":"a","pid":1,"tid":1,"ts":5,"dur":10})";
  EXPECT_EQ(failures(good), 0);
  EXPECT_GT(failures(good + R"(,{"ph":"X","name":"b","pid":1,"tid":1,"ts":4,"dur":1})"), 0);
  EXPECT_GT(failures(good + R"(,{"ph":"X","name":"b","pid":1,"tid":1,"ts":12,"dur":8})"), 0);
  EXPECT_GT(failures(good + R"(,{"ph":"X","name":"b","pid":1,"tid":2,"ts":12,"dur":1})"), 0);
  EXPECT_GT(failures(good + R"(,{"ph":"s","name":"b","pid":1,"tid":1,"ts":12,"id":1})"), 0);
}

TEST(StepTraceTest, KeepsTheLastSteps) {
  StepTrace trace(3);
  for (uint64_t id = 1; id <= 5; ++id) {
    trace.BeginStep(id);
    { const TraceScope scope(&trace, "attention", 0, 2); }
    trace.EndStep(static_cast<int64_t>(id), 1, {}, {});
  }
  const auto steps = trace.Steps();
  ASSERT_EQ(steps.size(), 3u);
  EXPECT_EQ(steps.front()->step_id, 3u);
  EXPECT_EQ(steps.back()->step_id, 5u);
  EXPECT_EQ(trace.steps_seen(), 5);
  ASSERT_EQ(steps[0]->host.size(), 1u);
  EXPECT_EQ(steps[0]->host[0].layer, 2);
  EXPECT_LE(steps[0]->host[0].begin_ns, steps[0]->host[0].end_ns);
}

// A whole engine's steps: every layer of both halves has its spans, and their calls their arrows.
TEST(StepTraceTest, ShowsBothHalvesOfEveryLayer) {
  const GoldenModel golden = LoadGolden("v3");
  StepTrace trace(8);
  HarnessOptions options;
  options.precision = Precision::kBf16;
  options.workers = 2;
  options.forward = {.half_rows_min = 2, .trace = &trace};
  Harness harness(golden.weights, options);
  engine::v1::StepPlan plan;
  plan.set_step_id(41);
  plan.set_deadline_ms(10'000);
  for (uint64_t id = 1; id <= 6; ++id) {
    auto* start = plan.add_starts();
    start->set_sequence_id(id);
    start->set_prompt_tokens(2);
    auto* slice = plan.add_slices();
    slice->set_sequence_id(id);
    slice->set_kind(engine::v1::SLICE_KIND_PREFILL);
    slice->add_token_ids(static_cast<uint32_t>(id));
    slice->add_token_ids(static_cast<uint32_t>(id * 9));
    slice->add_new_pages(static_cast<uint32_t>(id));
    slice->set_sample(true);
  }
  ASSERT_EQ(harness.engine.Run(plan, absl::Now()).status_code(), 0u);
  plan.set_deadline_ms(0);  // refused: an empty step
  ASSERT_NE(harness.engine.Run(plan, absl::Now()).status_code(), 0u);
  const auto steps = trace.Steps();
  ASSERT_EQ(steps.size(), 2u);
  EXPECT_EQ(steps[0]->rows, 12);
  EXPECT_EQ(steps[0]->halves, 2);
  EXPECT_EQ(steps[1]->halves, 0);
  EXPECT_TRUE(steps[1]->host.empty());
  EXPECT_EQ(steps[0]->frames.size(), harness.cluster.calls.size());

  const nlohmann::json events = CheckTrace(TraceJson(steps));
  const ModelConfig& config = golden.weights.config;
  for (const char* half : {"half A", "half B"}) {
    for (const char* name : {"attention", "route", "read rows", "dispatch", "shared expert",
                             "expert wait", "combine", "add experts", "attend", "project"}) {
      std::set<int64_t> layers;
      for (const auto& span : SpansOf(events, half, name)) {
        if (span.at("args").contains("layer"))
          layers.insert(span.at("args").at("layer").get<int64_t>());
      }
      const bool every = std::string(name) == "attention" || std::string(name) == "attend" ||
                         std::string(name) == "project";
      EXPECT_EQ(static_cast<int64_t>(layers.size()),
                every ? config.num_hidden_layers
                      : config.num_hidden_layers - config.first_k_dense_replace)
          << half << " " << name;
    }
  }
  EXPECT_EQ(SpansOf(events, "steps", "logits").size(), 1u);
  EXPECT_EQ(SpansOf(events, "steps", "sampling").size(), 1u);
  EXPECT_EQ(SpansOf(events, "worker0:1").size() + SpansOf(events, "worker1:1").size(),
            harness.cluster.calls.size());
}

TEST(StepTraceTest, NothingIsNotedWithoutOne) {
  const GoldenModel golden = LoadGolden("v3");
  Harness harness(golden.weights, {});
  harness.Run({{0, RowKind::kPrefill, RandomTokens(5, 128, 1)}});
  EXPECT_TRUE(harness.link.TakeFrameSpans().empty());
  EXPECT_TRUE(harness.backend->TakeDeviceSpans().empty());
}

}  // namespace
}  // namespace tandem::gpu_worker
