// The engine behind its gRPC service, over a real stream: results in order, a new stream resets the
// worker, and a plan that lies costs its own step only.
#include "gpu_worker/server/engine_service.h"

#include <gtest/gtest.h>

#include <thread>

#include "absl/time/clock.h"
#include "lib/rpc/engine_link.h"
#include "lib/rpc/grpc_server.h"
#include "tests/engine/harness.h"

namespace tandem::gpu_worker {
namespace {

using engine::v1::StepPlan;
using engine::v1::StepResult;

constexpr absl::Duration kTimeout = absl::Seconds(20);

class EngineServiceTest : public testing::Test {
 protected:
  EngineServiceTest()
      : golden_(LoadGolden("v3")),
        harness_(golden_.weights, {}),
        engine_metrics_(metrics_, 64),
        runner_(std::make_unique<EngineRunner>(harness_.engine, &harness_.link, engine_metrics_)) {
    engine::v1::DescribeResponse description;
    description.set_kv_pages(64);
    description.set_backend("host");
    service_ = EngineService::Make(*runner_, description);
    auto server = rpc::GrpcServer::Start("127.0.0.1:0", {service_->service()});
    if (!server.ok()) ADD_FAILURE() << server.status();
    server_ = *std::move(server);
  }

  ~EngineServiceTest() override {
    service_->EndStream(absl::UnavailableError("end of the test"));
    server_->Shutdown(absl::Seconds(1));
  }

  StepPlan FirstPlan(uint64_t step) const {
    StepPlan plan;
    plan.set_step_id(step);
    plan.add_starts()->set_sequence_id(1);
    plan.mutable_starts(0)->set_prompt_tokens(static_cast<uint32_t>(golden_.prompt_tokens));
    auto* slice = plan.add_slices();
    slice->set_sequence_id(1);
    slice->set_kind(engine::v1::SLICE_KIND_PREFILL);
    slice->mutable_token_ids()->Add(golden_.tokens.begin(),
                                    golden_.tokens.begin() + golden_.prompt_tokens);
    slice->add_new_pages(0);
    slice->set_sample(true);
    return plan;
  }

  StepPlan NextPlan(uint64_t step, size_t position) const {
    StepPlan plan;
    plan.set_step_id(step);
    auto* slice = plan.add_slices();
    slice->set_sequence_id(1);
    slice->set_kind(engine::v1::SLICE_KIND_DECODE);
    slice->set_start_position(static_cast<uint32_t>(position));
    slice->add_token_ids(golden_.tokens[position]);
    slice->set_sample(true);
    return plan;
  }

  const GoldenModel golden_;
  Harness harness_;
  telemetry::Metrics metrics_;
  EngineMetrics engine_metrics_;
  std::unique_ptr<EngineRunner> runner_;
  std::unique_ptr<EngineService> service_;
  std::unique_ptr<rpc::GrpcServer> server_;
};

TEST_F(EngineServiceTest, GeneratesOverTheWire) {
  const auto link = rpc::EngineLink::Make(server_->address());
  const auto description = link->Describe(kTimeout);
  ASSERT_TRUE(description.ok()) << description.status();
  EXPECT_EQ(description->backend(), "host");
  absl::StatusOr<StepResult> result = link->RunStep(FirstPlan(1), kTimeout);
  for (size_t t = golden_.prompt_tokens; t < golden_.tokens.size(); ++t) {
    ASSERT_TRUE(result.ok()) << result.status();
    ASSERT_EQ(result->status_code(), 0u) << result->status_message();
    EXPECT_EQ(result->slices(0).token_id(), golden_.tokens[t]);
    result = link->RunStep(NextPlan(t, t), kTimeout);
  }
  const std::string text = metrics_.Text();
  EXPECT_NE(text.find("tandem_engine_rows_total{kind=\"prefill\"} 40"), std::string::npos) << text;
  EXPECT_NE(text.find("tandem_engine_kv_pages_used 1"), std::string::npos);
}

TEST_F(EngineServiceTest, ANewStreamForgetsTheOld) {
  const auto first = rpc::EngineLink::Make(server_->address());
  ASSERT_EQ(first->RunStep(FirstPlan(1), kTimeout)->status_code(), 0u);
  const auto second = rpc::EngineLink::Make(server_->address());
  // The old sequence is unknown there, and its page is free.
  const auto unknown = second->RunStep(NextPlan(1, 40), kTimeout);
  ASSERT_TRUE(unknown.ok()) << unknown.status();
  EXPECT_EQ(unknown->status_code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
  const auto again = second->RunStep(FirstPlan(2), kTimeout);
  ASSERT_TRUE(again.ok()) << again.status();
  EXPECT_EQ(again->status_code(), 0u) << again->status_message();
  EXPECT_FALSE(first->RunStep(NextPlan(2, 40), kTimeout).ok()) << "the first stream has ended";
}

TEST_F(EngineServiceTest, AClosedStreamFreesItsSequences) {
  auto link = rpc::EngineLink::Make(server_->address());
  ASSERT_EQ(link->RunStep(FirstPlan(1), kTimeout)->status_code(), 0u);
  EXPECT_EQ(runner_->live_sequences(), 1);
  link.reset();
  const absl::Time end = absl::Now() + kTimeout;
  while (runner_->live_sequences() > 0 && absl::Now() < end) absl::SleepFor(absl::Milliseconds(5));
  EXPECT_EQ(runner_->live_sequences(), 0);
}

TEST_F(EngineServiceTest, ARefusedPlanLeavesTheStreamUsable) {
  const auto link = rpc::EngineLink::Make(server_->address());
  ASSERT_EQ(link->RunStep(FirstPlan(1), kTimeout)->status_code(), 0u);
  const auto refused = link->RunStep(NextPlan(2, 45), kTimeout);
  ASSERT_TRUE(refused.ok()) << refused.status();
  EXPECT_EQ(refused->status_code(), static_cast<uint32_t>(absl::StatusCode::kInvalidArgument));
  const auto good = link->RunStep(NextPlan(3, 40), kTimeout);
  ASSERT_TRUE(good.ok()) << good.status();
  EXPECT_EQ(good->slices(0).token_id(), golden_.tokens[41]);
}

TEST_F(EngineServiceTest, EndStreamEndsAWaitingPeer) {
  const auto link = rpc::EngineLink::Make(server_->address());
  ASSERT_EQ(link->RunStep(FirstPlan(1), kTimeout)->status_code(), 0u);
  service_->EndStream(absl::UnavailableError("shutting down"));
  EXPECT_FALSE(link->RunStep(NextPlan(2, 40), kTimeout).ok());
}

}  // namespace
}  // namespace tandem::gpu_worker
